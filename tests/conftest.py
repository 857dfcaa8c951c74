import matplotlib
import pytest
import torch
from hypothesis import HealthCheck, settings

matplotlib.use("Agg")
torch.set_num_threads(1)  # small nets; the tests themselves run in two processes
settings.register_profile(
    "quick",
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the float64 fixture needs no reset between examples
)
settings.register_profile("long", settings.get_profile("quick"), max_examples=400, derandomize=False)
settings.load_profile("quick")


@pytest.fixture
def float64():
    """The laws hold in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def validated_arguments():
    """torch's distributions check their arguments: torch.compile and zuko switch that off for the whole process."""
    torch.distributions.Distribution.set_default_validate_args(True)


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    """The working directory is empty, and no folder of data sets is known."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLOWSTONE_DATA", raising=False)

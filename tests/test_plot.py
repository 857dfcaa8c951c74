import subprocess
import sys

import matplotlib.pyplot as plt
import pytest
import torch

import flowstone
from cases import disturb
from flowstone import plot
from flowstone.data import TOYS
from flowstone.train.history import History, Record


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


@pytest.fixture
def trained():
    flow = flowstone.spline(2, hidden=(8,))
    disturb(flow, 0.2)
    return flow.eval(), TOYS["moons"](2000, torch.Generator().manual_seed(0))


def history(n: int = 20) -> History:
    return History([Record(10 * i, i, 5 / i, 6 / i + 0.001 * i, 1e-3, 1.0) for i in range(1, n + 1)])


def test_loss_curve_shows_both_lines_the_best_point_and_the_floor():
    ax = plot.loss_curve(history(), plt.figure().add_subplot(), entropy=0.2)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]  # pyright: ignore
    assert labels[:2] == ["train", "validation"]
    assert labels[2].startswith("best: 0.3200 at step 200")
    assert labels[3] == "entropy: 0.2000"
    low, high = ax.get_ylim()
    assert low < 0.2 < history().best.val_nll < high < 6  # the first steps do not set the scale


def test_the_start_does_not_set_the_scale_of_a_short_history_either():
    records = [
        Record(500 * i, i, 2000 if i == 0 else 600 - i, 2000 if i == 0 else 590 - i, 1e-3, 1.0) for i in range(6)
    ]
    low, high = plot.loss_curve(History(records), plt.figure().add_subplot()).get_ylim()
    assert 500 < low < 585
    assert high < 700


def test_a_history_of_one_record_can_be_drawn():
    plot.loss_curve(history(1), plt.figure().add_subplot())


def test_density_covers_its_limits_and_shows_samples(trained):
    flow, x = trained
    limits = ((-3.0, 3.0), (-3.0, 3.0))
    ax = plot.density(flow, plt.figure().add_subplot(), limits=limits, samples=x, grid=40)
    assert ax.get_xlim() == limits[0]
    assert ax.get_aspect() == 1
    assert len(ax.collections) >= 2


def test_three_panels_share_the_scale_of_data_and_samples(trained):
    data, latent, samples = plot.data_latent_samples(*trained).axes
    assert data.get_xlim() == samples.get_xlim()
    assert data.get_ylim() == samples.get_ylim()
    assert latent.get_xlim()[1] > 2.5


def test_columns_of_very_different_widths_fill_their_frame():
    x = torch.randn(3000, 2) * torch.tensor([0.1, 15_000.0]) + torch.tensor([1.7, 45_000.0])
    flow = flowstone.realnvp(2, hidden=(4,), couplings=2)
    flow.initialize(x)
    (left, right), (bottom, top) = limits = plot.limits_of(x)
    assert right - left < 2
    assert top - bottom > 50_000
    ax = plot.density(flow, plt.figure().add_subplot(), limits=limits, samples=x, grid=40)
    assert ax.get_aspect() == "auto"
    plot.data_latent_samples(flow, x)
    plot.layers(flow, x)


def test_one_column_is_drawn_as_a_curve_over_a_histogram(tmp_path):
    x = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0))
    flow = flowstone.spline(1, couplings=1, hidden=(4,))
    ax = plot.density_curve(flow, plt.figure().add_subplot(), x, column="height")
    curve = torch.tensor(ax.lines[0].get_xydata())
    torch.testing.assert_close(
        curve[:, 1], torch.distributions.Normal(0, 1).log_prob(curve[:, 0]).exp(), atol=1e-5, rtol=0
    )
    assert ax.get_xlabel() == "height"
    assert [p.name for p in plot.save_plots(flow, x, ["height"], history(), tmp_path)] == ["loss.png", "density.png"]


def test_a_density_of_very_small_numbers_can_be_drawn():
    frame = ((0.0, 1.0), (0.0, 1.0))
    for level in (-40.0, -1e4):  # the second is zero in float32, all over the frame
        figure = plt.figure()
        plot.density(lambda x, level=level: level - x.square().sum(-1), figure.add_subplot(), limits=frame, grid=20)
        figure.canvas.draw()


def test_importing_leaves_the_backend_of_the_user_alone():
    code = "import matplotlib; matplotlib.use('svg'); import flowstone.plot; assert matplotlib.get_backend() == 'svg'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_layers_start_at_the_data_and_end_in_the_latent(trained):
    flow, x = trained
    figure = plot.layers(flow, x)
    titles = [ax.get_title() for ax in figure.axes]
    columns = len(titles) // 2
    assert columns == 7  # the data and six couplings
    assert titles[0] == "data"
    assert "Coupling" in titles[-2] or "Coupling" in titles[columns - 1]
    latent, _ = flow.to_latent(x)
    drawn = next(ax for ax in figure.axes if ax.get_title().startswith("6 "))
    shown = torch.tensor(drawn.collections[0].get_offsets())
    torch.testing.assert_close(shown, latent[: len(shown)].double().detach(), atol=1e-5, rtol=0)


def test_layers_share_their_axes_and_their_colours(trained):
    flow, x = trained
    figure = plot.layers(flow, x)
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in figure.axes}) == 1
    assert {ax.collections[0].get_clim() for ax in figure.axes} == {(x[:, 0].min().item(), x[:, 0].max().item())}
    forth, back = figure.axes[0].collections[0], figure.axes[len(figure.axes) // 2].collections[0]
    for drawn in (forth, back):  # the colour of a point is its place in the data
        torch.testing.assert_close(
            torch.tensor(drawn.get_array()), torch.tensor(drawn.get_offsets())[:, 0], check_dtype=False
        )


def test_layers_of_data_in_other_units_share_all_axes_but_those_of_the_data():
    x = 1000 * torch.randn(3000, 2) + 5000
    flow = flowstone.realnvp(2, hidden=(4,), couplings=2)
    flow.initialize(x)
    first, *rest = plot.layers(flow, x).axes[:3]
    assert first.get_xlim()[1] > 5000
    assert len({ax.get_xlim() for ax in rest}) == 1
    assert rest[0].get_xlim()[1] < 50


def test_layers_of_a_deep_flow_stay_few(trained):
    _, x = trained
    assert len(plot.layers(flowstone.spline(2, couplings=30, hidden=(4,)), x).axes) <= 18


def test_pair_plot_puts_data_above_and_samples_below():
    figure = plot.pair_plot(torch.randn(300, 3), torch.randn(300, 3) + 5, ["a", "b", "c"])
    axes = list(figure.axes)
    assert len(axes) == 9
    assert [axes[6 + i].get_xlabel() for i in range(3)] == ["a", "b", "c"]


def test_wide_tables_show_their_first_columns():
    names = [f"c{i}" for i in range(30)]
    figure = plot.pair_plot(torch.randn(50, 30), torch.randn(50, 30), names)
    assert len(figure.axes) == 36
    assert "the first 6 of 30 columns" in figure._suptitle.get_text()  # pyright: ignore


def test_samples_alone_are_not_called_data():
    figure = plot.sample_figure(torch.randn(100, 3), ["a", "b", "c"])
    assert figure._suptitle.get_text() == "samples"  # pyright: ignore
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["samples"]


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_samples_alone(columns, tmp_path):
    figure = plot.sample_figure(torch.randn(200, columns), [f"x{i}" for i in range(columns)])
    assert plot.save_figure(figure, tmp_path / "s.png").stat().st_size > 1000


@pytest.mark.parametrize("context_features", [0, 2])
def test_all_pictures_of_images_are_drawn(tmp_path, context_features):
    torch.manual_seed(0)
    flow = flowstone.realnvp_image((3, 6, 4), channels=4, blocks=1, context_features=context_features)
    x = torch.randint(256, (70, 3, 6, 4), dtype=torch.uint8)
    context = torch.randn(70, context_features) if context_features else None
    flow.initialize(x, context)
    written = plot.save_plots(flow.eval(), x, (), history(), tmp_path, context=context, test=x, test_context=context)
    names = ["loss", "samples", "temperatures", "nearest", "reconstructions", "interpolation", "scales", "likely"]
    assert [path.stem for path in written] == names
    assert all(path.stat().st_size > 2000 for path in written)
    given = None if context is None else context[:3]
    few = plot.save_plots(flow, x[:3], (), history(), tmp_path, context=given)
    assert [path.stem for path in few] == [name for name in names if name not in ("interpolation", "likely")]


def test_a_flow_of_one_scale_has_no_picture_of_scales():
    flow = flowstone.nice_image((1, 4, 4), hidden=(4,))
    assert plot.scale_figure(flow, torch.zeros(4, 1, 4, 4, dtype=torch.uint8)) is None


def test_scales_drawn_anew_keep_the_coarse_and_change_the_fine():
    torch.manual_seed(0)
    flow = flowstone.realnvp_image((1, 8, 8), channels=4, blocks=1, scales=3)
    x = torch.randint(256, (4, 1, 8, 8), dtype=torch.uint8)
    flow.initialize(x)
    figure = plot.scale_figure(flow.eval(), x)
    assert figure is not None
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["data", "scale 1 anew, 50% of the latents kept", "scale 2 anew, 25% of the latents kept"]


def test_the_nearest_image_to_a_copy_is_the_original():
    x = torch.randint(256, (40, 1, 4, 4), dtype=torch.uint8)
    sheet = plot.nearest_figure(x[:2].float(), x, count=2).axes[0].images[0].get_array()
    assert sheet is not None
    assert (sheet[:4, :4] == sheet[:4, 5:9]).all()

"""FlowOutlierDetector: rows that are unlike those that were learned, with scikit-learn's interface."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binom
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from flowstone.digest import digest_of
from flowstone.errors import CheckpointError, SettingError
from flowstone.estimators.density import FlowDensity
from flowstone.estimators.neighbourhood import MOST_ROWS, Neighbourhood, Scale
from flowstone.estimators.rows import TableInput, seed_of
from flowstone.evaluation.anomaly import MOST_HELD_OUT, blamed_terms, conformal_p_values, usual_terms
from flowstone.files import read_tensors, tensors_to_bytes, to_json, write_atomically
from flowstone.runs.checkpoint import read_record, reading

__all__ = ["FlowOutlierDetector"]

HELD_OUT = 5  # one row in so many is held out for p-values
SCALED_BY, MOST_SCALED = 8, 2000  # one learned row in so many scales the terms, and is hidden from the density
WEIGHTS = (0.25, 0.25, 0.5)  # of likelihood, neighbourhood and smoothed density
NEAR, TRIMMED_WEIGHTS = 10, (0.5, 0.5, 0.0)  # with trim: of n rows the (n / 10)-th neighbour, and the weights
QUICK, QUICK_WITH_GAPS = ("independent", "gaussian", "mixture"), ("independent", "mixed")
DETECTOR = "detector.safetensors"


class FlowOutlierDetector(TableInput, OutlierMixin, BaseEstimator):
    r"""Anomalies: rows that are unlikely, or lie far from all others, or are more likely than any row should be.

    Likelihood alone misleads: a flow can give rows of another kind more likelihood than its own (Nalisnick et al.
    2019, Do Deep Generative Models Know What They Don't Know?), and a high density need not mean a typical row
    (Nalisnick et al. 2019, Detecting Out-of-Distribution Inputs Using Typicality; Zhang et al. 2021, Understanding
    Failures in Out-of-Distribution Detection with Deep Generative Models). The score of a row is therefore minus the
    weighted mean (1/4, 1/4, 1/2) of three terms, each centred and divided by its standard deviation over learned rows
    (t), and compressed, $\operatorname{sign}(t) \log(1 + |t|)$:

    - likelihood: $-\log p(x)$ under ``FlowDensity``; where $\log p(x)$ is above its maximum over learned rows, it is
      reflected there (typicality);
    - neighbourhood: the log of the distance to the nearest learned row, columns standardised;
    - smoothed density: minus the log of the mean of Gaussian kernels at learned rows, with twice the likeliest
      bandwidth.

    A row that was learned is not its own neighbour. A fifth of the rows is held out, for the p-values.

    Anomalies among the rows are learned as normal ones, and a group of them has near neighbours in itself. ``trim`` is
    for such rows: it leaves out some, and the score of a row is then minus the mean of the first two terms, with the
    distance to the (n/10)-th nearest of n learned rows (of 5000 of them at most).

    Rows are whatever ``FlowDensity`` takes: numbers, or a frame of columns of any kind, with gaps.

    Args:
        contamination: the share of the rows of ``fit`` that ``predict`` takes for anomalies, above 0 and at most 0.5.
        trim: the share of rows, at most 0.5, that are left out before anything is learned, because they lie farthest
            from the rest (by the distance to the (n/10)-th nearest of n rows). It is for rows with anomalies among
            them; without anomalies it leaves out good rows, and the detector is worse.
        kinds: as in ``FlowDensity``.
        models: as in ``FlowDensity``; ``quick``: for numbers without gaps independent columns, a Gaussian and mixtures
            of Gaussians; for other tables independent columns and ``mixed``.
        time_limit, device, random_state, verbose: as in ``FlowDensity``.

    Attributes:
        offset_: the score at which a row becomes an anomaly.
        density_: the ``FlowDensity`` of the learned rows.
        decision_scores_, labels_, threshold_: with PyOD's names, minus the scores of the rows of ``fit``; 1 for each of
            them that is an anomaly and 0 for others; and minus ``offset_``.
        kinds_, n_features_in_, feature_names_in_: of X.

    >>> import numpy as np
    >>> from flowstone import FlowOutlierDetector
    >>> X = np.random.default_rng(0).normal(5, 2, (200, 2))
    >>> detector = FlowOutlierDetector(contamination=0.05, random_state=0).fit(X)
    >>> detector.predict([[5, 5], [5, 50]])
    array([ 1, -1])
    >>> detector.p_values([[5, 50]]).round(2), detector.blame([[5, 50]]).argmax()
    (array([0.02]), np.int64(1))
    """

    least_rows = 3

    def __init__(
        self,
        *,
        contamination: float = 0.1,
        trim: float = 0.0,
        kinds: str | Mapping[str, str] = "auto",
        models: str | Sequence[str] = "quick",
        time_limit: float | None = None,
        device: str = "cpu",
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.contamination = contamination
        self.trim = trim
        self.kinds = kinds
        self.models = models
        self.time_limit = time_limit
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = tags.input_tags.string = False
        return tags

    def fit(self, X: Any, y: Any = None) -> "FlowOutlierDetector":
        """Learn what rows are like.

        Args:
            X: ``(rows, columns)``, at least 3 rows.
            y: not looked at.

        Raises:
            ValueError: X or settings cannot be used; the message names what is wrong.
        """
        _require_share("contamination", self.contamination, least=np.finfo(float).tiny)
        _require_share("trim", self.trim, least=0.0)
        seed = seed_of(self.random_state)
        x = self._learned_rows(X)
        self._check_kinds()
        if ((x == x[0]) | (x.isnan() & x[0].isnan())).all():
            raise ValueError(f"all {len(x)} rows are equal: none of them is stranger than another")
        order = torch.from_numpy(np.random.default_rng(seed).permutation(len(x)))
        count = max(1, len(x) // HELD_OUT)
        held_out, learned = x[order[:count]], x[order[count:]]
        quick = QUICK if self.columns_ is None and not x.isnan().any() else QUICK_WITH_GAPS
        self._learn(self._trimmed(learned), quick, seed)
        self._held_out_rows = held_out[:MOST_HELD_OUT]
        self._held_out_scores = self._score(held_out)
        self.decision_scores_ = -self._score(x)
        self.offset_ = float(np.percentile(-self.decision_scores_, 100 * self.contamination))
        return self

    def _trimmed(self, x: Tensor) -> Tensor:
        """The rows without the share ``trim`` of them that lie farthest from the rest."""
        kept = max(2, len(x) - int(self.trim * len(x)))
        if kept >= len(x):
            return x
        points = self._scale_of(x)(x)
        distance, _ = Neighbourhood(points, self._near(len(x)), bandwidth=1.0).log_distance(points)
        return x[torch.from_numpy(np.sort(np.argsort(distance, kind="stable")[:kept]))]

    def _near(self, count: int) -> int:
        """Which neighbour's distance says how far a row lies from this many rows; 1 is the nearest."""
        return max(1, min(count, MOST_ROWS) // NEAR) if self.trim else 1

    def _scale_of(self, x: Tensor) -> Scale:
        return Scale.of(x, None if self.columns_ is None else self.columns_.heads())

    def _learn(self, x: Tensor, quick: Sequence[str], seed: int) -> None:
        """The density and the neighbours of rows, and the scale of their terms."""
        scaling = min(len(x) // SCALED_BY, MOST_SCALED)
        self.density_ = FlowDensity(
            kinds=self.kinds,
            models=quick if isinstance(self.models, str) and self.models == "quick" else self.models,
            time_limit=self.time_limit,
            device=self.device,
            random_state=seed,
            verbose=self.verbose,
        ).fit_as(self, x[scaling:])
        self._scale = self._scale_of(x)
        self._neighbours = Neighbourhood(self._scale(x), self._near(len(x)))
        self._weights = TRIMMED_WEIGHTS if self.trim else WEIGHTS
        self._most_likely = float(self.density_.varying_log_prob(x).max())
        terms = self._terms(x[:scaling] if scaling > 1 else x)
        terms = np.where(np.isfinite(terms), terms, np.nan)
        self._center = np.nan_to_num(np.nanmean(terms, 0))
        spread = np.nan_to_num(np.nanstd(terms, 0))
        self._spread = np.where(spread > 0, spread, 1.0)

    def _terms(self, x: Tensor) -> np.ndarray:
        """Minus the log-likelihood, log distance and smoothed density of rows, ``(rows, 3)``; larger is stranger."""
        unlikely = -self.density_.varying_log_prob(x).numpy()
        return np.stack([unlikely, *self._neighbours.log_distance(self._scale(x))], 1)

    def _score(self, x: Tensor, impossible: np.ndarray | None = None) -> np.ndarray:
        """Minus the weighted mean of the terms, brought to one scale.

        Args:
            impossible: the rows that have another value in a constant column of a frame.
        """
        terms = self._terms(x)
        if impossible is not None:
            terms[impossible, 0] = np.inf
        terms[:, 0] = np.abs(terms[:, 0] + self._most_likely) - self._most_likely
        terms = (terms - self._center) / self._spread
        terms = np.nan_to_num(terms, nan=np.inf).clip(-1e300, 1e300)  # an impossible row is very strange
        return -(np.sign(terms) * np.log1p(np.abs(terms))) @ np.array(self._weights)

    # --- scores, p-values and blame -----------------------------------------------------------------------------------

    def score_samples(self, X: Any) -> np.ndarray:
        """How normal each row is, ``(rows,)``, without a unit; larger is more normal."""
        others = self._other_constants(X)
        return self._score(self._rows(X), np.any(list(others.values()), 0) if others else None)

    def decision_function(self, X: Any) -> np.ndarray:
        """``score_samples`` less ``offset_``, ``(rows,)``: negative for anomalies."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """1 for each row that is normal and -1 for each anomaly, ``(rows,)``."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def p_values(self, X: Any) -> np.ndarray:
        r"""Conformal p-values, ``(rows,)``: $P(p \le a) \le a$ for a row that is exchangeable with those of ``fit``.

        They compare rows with the held-out fifth, so none is below 1 / (held-out rows + 1); see
        ``flowstone.evaluation.conformal_p_values``. Anomalies among the rows of ``fit`` make p-values larger.
        """
        return conformal_p_values(self._checked_scores(), self.score_samples(X))

    def blame(self, X: Any) -> np.ndarray:
        r"""How much each value contributes to a row being strange, ``(rows, columns)``, in nats: by how
        much $\log p(x_j \mid x_{-j})$ is below its mean over held-out rows (``flowstone.evaluation.blamed_terms`` says
        what takes its place for other densities). It is 0 where there is a gap, and infinite for another value in a
        constant column. ``blamed_columns_`` names the columns.
        """
        x = self._rows(X)
        varying = self.density_._varying
        held = self._held_out_rows[:, varying]
        flow = self.density_.flow_
        usual = usual_terms(flow, held)
        found = np.zeros((len(x), x.shape[1]))
        found[:, varying] = np.nan_to_num(
            usual - blamed_terms(flow, x[:, varying], values=held), nan=0.0, posinf=np.inf
        )
        for index, value in self.density_._constants.items():
            found[:, index] = np.where((x[:, index] != value) & ~x[:, index].isnan(), np.inf, 0.0)
        others = [np.where(other, np.inf, 0.0) for other in self._other_constants(X).values()]
        return np.column_stack((found, *others))

    @property
    def blamed_columns_(self) -> list[str]:
        """The names of the columns of ``blame``."""
        check_is_fitted(self)
        if self.columns_ is None:
            return list(self.kinds_)
        return [*self.columns_.names, *(kind.column for kind in self.columns_.constants)]

    def predict_confidence(self, X: Any) -> np.ndarray:
        """The probability that the prediction of each row would be the same had other rows been learned, ``(rows,)``
        (Perini, Vercruyssen and Davis 2020, Quantifying the Confidence of Anomaly Detectors).
        """
        scores, count = self.score_samples(X), len(self.decision_scores_)
        below = np.searchsorted(np.sort(self.decision_scores_), -scores, side="right")
        outlying = 1 - binom.cdf(count - int(count * self.contamination), count, (1 + below) / (2 + count))
        return np.where(scores < self.offset_, outlying, 1 - outlying)

    @property
    def threshold_(self) -> float:
        """Minus ``offset_``: the value of ``decision_scores_`` above which a row is an anomaly."""
        return -self.offset_

    @property
    def labels_(self) -> np.ndarray:
        """1 for each row of ``fit`` that is an anomaly and 0 for others, ``(rows,)``."""
        return (self.decision_scores_ > self.threshold_).astype(int)

    def _checked_scores(self) -> np.ndarray:
        check_is_fitted(self)
        return self._held_out_scores

    # --- files --------------------------------------------------------------------------------------------------------

    def save(self, folder: Path | str) -> None:
        """Write what was learned into a folder that ``FlowOutlierDetector.load`` reads, without pickle."""
        check_is_fitted(self)
        self.density_.save(folder)
        state = {
            "settings": {
                **self.density_._settings(),
                "models": self.models if isinstance(self.models, str) else list(self.models),
                "contamination": float(self.contamination),
                "trim": float(self.trim),
            },
            "offset": self.offset_,
            "most_likely": self._most_likely,
            "bandwidth": self._neighbours.bandwidth,
            "neighbour": self._neighbours.neighbour,
            "weights": list(self._weights),
            "levels": self._scale.levels,
            "density": read_record(folder)["digest"],
        }
        arrays: dict[str, Any] = {name: np.asarray(getattr(self, name)) for name in KEPT}
        arrays |= {"points": self._neighbours.points, "center": self._scale.center, "width": self._scale.width}
        tensors = {name: torch.as_tensor(array) for name, array in arrays.items()}
        record = to_json(state)
        metadata = {"record": record, "digest": digest_of(json.loads(record), tensors)}
        write_atomically(Path(folder) / DETECTOR, tensors_to_bytes(tensors, metadata))

    @classmethod
    def load(cls, folder: Path | str, *, device: str = "cpu") -> "FlowOutlierDetector":
        """The detector that ``save`` wrote.

        Raises:
            CheckpointError: the folder is damaged, or holds no detector.
        """
        density, path = FlowDensity.load(folder, device=device), Path(folder) / DETECTOR
        if not path.exists():
            raise CheckpointError(f"{folder}: it holds no detector of outliers")
        tensors, metadata = read_tensors(path)
        with reading(path):
            state = json.loads(metadata["record"])
            if metadata["digest"] != digest_of(state, tensors) or state["density"] != read_record(folder)["digest"]:
                raise CheckpointError(f"{path}: damaged, or of another flow.json")
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
            settings = state["settings"]
            if isinstance(settings["models"], list):
                settings["models"] = tuple(settings["models"])
            made = cls(**settings)
            made._scale = Scale(arrays["center"], arrays["width"], state["levels"])
            made._neighbours = Neighbourhood(arrays["points"], state.get("neighbour", 1), state["bandwidth"])
            made._weights = state.get("weights", WEIGHTS)
            made.offset_, made._most_likely = state["offset"], state["most_likely"]
            for name in KEPT:
                setattr(made, name, arrays[name])
        made._held_out_rows = tensors["_held_out_rows"]
        made.density_ = density
        made.read_as(density)
        return made


KEPT = ("decision_scores_", "_held_out_rows", "_held_out_scores", "_center", "_spread")


def _require_share(name: str, share: Any, *, least: float) -> None:
    if isinstance(share, bool) or not isinstance(share, int | float | np.number) or not least <= share <= 0.5:
        above = "above 0" if least else "at least 0"
        raise SettingError(f"{name}={share!r}: it is a share of the rows, {above} and at most 0.5")

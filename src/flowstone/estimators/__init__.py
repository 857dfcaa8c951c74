"""Estimators with the interface of scikit-learn, for tables of any kind: the extra ``flowstone[sklearn]``."""

try:
    from flowstone.estimators.density import FlowDensity
    from flowstone.estimators.outliers import FlowOutlierDetector
except ModuleNotFoundError as error:
    if error.name not in ("sklearn", "narwhals"):
        raise
    raise ModuleNotFoundError(
        "estimators need scikit-learn: pip install flowstone[sklearn]", name=error.name
    ) from error

__all__ = ["FlowDensity", "FlowOutlierDetector"]

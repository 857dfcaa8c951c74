"""Mutants that compute the same map, or as good a one, and why."""

__all__ = ["EQUIVALENT"]

# (class or module, function, original, mutated) → the reason. An expression that occurs several times in a function is
# numbered.
NEWTON = "the slope of a Newton step cancels that of its start: the gradient is the same, and only dearer"
EQUIVALENT: dict[tuple[str, str, str, str], str] = {
    ("LogisticMixtureCDF", "inverse", "z.detach()", "z"): NEWTON,
    ("LogisticMixtureCDF", "inverse", "part.detach()", "part"): NEWTON,
    ("LogisticMixtureCDF", "inverse", "log_slope.detach()", "log_slope"): "its factor, reached - z, is 0 to rounding",
    ("Whiten", "initialize", "variance.flip(-1)", "variance.flip(0)"): "variance has one axis",
    ("RQSpline", "_wrap", "value + self.bound", "value - self.bound"): "the two are a whole turn apart",
    ("RQSpline", "_knots", "slopes[:1]", "slopes[:1 + 1]"): "one slope more at the end, at which no bin looks",
    ("RQSpline", "_bin", "torch.cat((index, index + 1))", "torch.cat((index + 1, index))"): (
        "the same quotient, counted from the upper corner of its bin"
    ),
    ("MADE", "__init__", "torch.zeros(context_features, dtype=torch.long)", "torch.zeros(context_features)"): (
        "degrees compare alike as whole and as real numbers"
    ),
}

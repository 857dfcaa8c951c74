"""Mutants that compute the same map, or as good a one, and why."""

__all__ = ["EQUIVALENT"]

# (class or module, function, original, mutated) → the reason. An expression that occurs several times in a function is
# numbered.
NEWTON = "the slope of a Newton step cancels that of its start: the gradient is the same, and only costs more"
SHAPES = "the shapes were checked before: a flow with a standardisation of contexts has a context"
RECORDED = "what follows records no graph"
DEGREES = "torch.zeros(self.context_features, dtype=torch.long)"
BOTH = "context is not None and flow.standardize_context is not None"
ALL = "torch.cat((*log_dets, self.flow.prior.log_prob(z.t())))"
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
    ("linear", "solve_lu", "rows.to(wide)", "rows"): "today's torch promotes the right side by itself",
    ("MADE", "_degrees", DEGREES, "torch.zeros(self.context_features)"): (
        "degrees compare alike as whole and as real numbers"
    ),
    ("DirectGradient", "_prepared", BOTH, "context is not None"): SHAPES,
    ("DirectGradient", "_prepared", BOTH, "flow.standardize_context is not None"): SHAPES,
    ("DirectGradient", "_loss_of_chunk", ALL, "torch.cat((self.flow.prior.log_prob(z.t()), *log_dets))"): (
        "the same sum in another order"
    ),
    ("_ByAutograd", "forward", "results[0].detach()", "results[0]"): RECORDED,
    ("_ByAutograd", "forward", "results[1].detach()", "results[1]"): RECORDED,
    ("_ByAutograd", "backward", "results[1]", "results[0]"): "both are of the same shape",
}

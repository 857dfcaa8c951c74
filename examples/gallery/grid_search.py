"""GridSearchCV over densities
===========================

``FlowDensity`` is an estimator of scikit-learn: it can be cloned, searched and put into pipelines. Its score is the
mean log-likelihood of held-out rows.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_wine
from sklearn.model_selection import GridSearchCV, KFold

from flowstone import FlowDensity

X = load_wine(return_X_y=True)[0][:, [0, 6, 9]]  # alcohol, flavanoids, color intensity
search = GridSearchCV(
    FlowDensity(random_state=0),
    {"models": ["independent", "gaussian", "mixture"]},
    cv=KFold(4, shuffle=True, random_state=0),
)
search.fit(X)
results = search.cv_results_
for name, mean, error in zip(
    results["param_models"], results["mean_test_score"], results["std_test_score"], strict=True
):
    print(f"{name:<12} {mean:7.3f} ± {error:.3f} nats")

# %%
figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
ax.errorbar(results["mean_test_score"], range(3), xerr=results["std_test_score"], fmt="o", color="#0072B2", capsize=4)
ax.set_yticks(range(3), results["param_models"])
ax.set(xlabel="mean log-likelihood of held-out rows (nats), deviation over four folds")
ax.margins(0.15, 0.3)
ax.invert_yaxis()
plt.show()

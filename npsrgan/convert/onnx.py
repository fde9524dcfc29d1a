"""Writes a generator as ONNX, for other programs to run.  Needs the optional package `onnx`, which nothing else here needs."""
import numpy as np

from npsrgan.system.errors import UserError

OPSET, VERSION = 17, 8      # of ONNX's operators and file format: those of 2022, which current programs support
RESIZED = {"nearest": {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
           "bilinear": {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
           "bicubic": {"mode": "cubic", "coordinate_transformation_mode": "half_pixel", "cubic_coeff_a": -0.75}}


def contents(network):
    """The bytes of an ONNX file for an Assembled; each step becomes one or two operators.

    Input "lr" (N, 3, h, w), output "sr" (N, 3, scale*h, scale*w), both RGB in [-1, 1]; the file's metadata says so.
    Raises UserError if the package is not installed.
    """
    try:
        import onnx
        from onnx import helper, numpy_helper
    except ImportError:
        raise UserError("--to onnx needs the package onnx: pip install onnx") from None
    arrays, nodes, constants, names = network.state_dict(), [], [], ["lr"]

    def constant(array):
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), f"c{len(constants)}"))
        return constants[-1].name

    def node(kind, *inputs, **attributes):
        nodes.append(helper.make_node(kind, inputs, [f"v{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    for number, (kind, *arguments) in enumerate(network.steps, 1):
        x = names[-1]
        own = {name: arrays.get(f"{number}.{name}") for name in ("weight", "bias", "slope", "gain", "shift")}
        own |= {name: own[name][:, None, None] for name in ("slope", "gain", "shift") if own[name] is not None}     # (C, 1, 1)
        if kind == "conv":
            x = node("Conv", x, constant(own["weight"].transpose(3, 2, 0, 1)), constant(own["bias"]), pads=[arguments[2] // 2] * 4)
        elif kind == "prelu":
            x = node("PRelu", x, constant(own["slope"]))
        elif kind == "leaky":
            x = node("LeakyRelu", x, alpha=float(arguments[0]))
        elif kind == "shuffle":
            x = node("DepthToSpace", x, blocksize=arguments[0], mode="DCR")
        elif kind == "affine":
            x = node("Add", node("Mul", x, constant(own["gain"])), constant(own["shift"]))
        elif kind == "enlarge":
            x = node("Resize", x, "", constant([1, 1, arguments[0], arguments[0]]), **RESIZED[arguments[1]])
        elif kind == "squash":
            x = node(arguments[0].capitalize(), x)
        elif kind == "recall":
            x = names[arguments[0]]
        elif kind == "add":
            x = node("Add", names[arguments[0]], node("Mul", x, constant(arguments[1])))
        names.append(x)
    node("Identity", names[-1])
    nodes[-1].output[0] = "sr"

    def image(name, *sides):
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3, *sides])
    model = helper.make_model(helper.make_graph(nodes, "npsrgan", [image("lr", "h", "w")], [image("sr", "H", "W")], constants),
                              opset_imports=[helper.make_opsetid("", OPSET)], ir_version=VERSION, producer_name="npsrgan")
    helper.set_model_props(model, {"scale": str(network.settings["scale"]), "input": "RGB, (N, 3, h, w), from -1 (black) to 1 (white)",
                                   "output": "RGB, (N, 3, scale*h, scale*w), from -1 to 1, to be clipped"})
    onnx.checker.check_model(model)
    return model.SerializeToString()

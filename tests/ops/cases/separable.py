from functools import partial

from tests.ops.cases import Images, multi_depthwise


def raw_calls(images: Images) -> dict[str, dict[str, object]]:
    depthwise = multi_depthwise.raw_calls(images)["multi_depthwise_bwd"]
    tensors = {name: depthwise[name] for name in ("xs", "params")}
    tensors["pointwise"] = images.accumulated(2, images.channels, images.channels)
    out, tables = images.table(*images.strided), images.accumulated(2, 4, images.channels)
    needs = {"need_x": [True, False], "need_depthwise": True, "need_pointwise": True, "need_affine": True}
    return {
        "separable_fwd": {**tensors, **multi_depthwise.PLAN, "statistics": True},
        "separable_bwd": {
            "grads": [out, None], "zs": [out, None], "tables": tables, **tensors, **multi_depthwise.PLAN, **needs
        },
    }  # fmt: skip


DIFFERENTIABLE = {
    "separable": partial(multi_depthwise.case, False, separable=True),
    "separable affine": partial(multi_depthwise.case, True, separable=True),
}

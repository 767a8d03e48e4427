from tests.ops.cases import Images, table


def raw_calls(images: Images) -> dict[str, dict[str, object]]:
    channels, x, out = images.channels, images.table(), images.table(*images.strided)
    weights = {
        "depthwise": [images.table(channels, 1, 3, 3), images.table(channels, 1, 5, 5)],
        "pointwise": [images.table(channels, channels, 1, 1) for _ in range(2)],
    }
    norms = {"mean": table(2, channels), "rstd": table(2, channels), "gamma": images.accumulated(2, channels)}
    plan = {"dilations": [2, 1], "stride": 2}
    return {
        "stage_fwd": {"xs": [x, x], **weights, **norms, "beta": None, **plan, "statistics": True},
        "stage_bwd": {
            "grads": [out, None], "zs": [out, None], "tables": images.accumulated(3, 4, channels), "xs": [x, x],
            "params": images.accumulated(9 + 25 + 4, channels),
            "matrices": images.accumulated(2, channels, channels), **weights, **norms, "alive": None, **plan,
            "need_x": [True, False], "need_depthwise": [True, True], "need_pointwise": [True, False], "need_sums": True,
            "ys": [],
        },
    }  # fmt: skip

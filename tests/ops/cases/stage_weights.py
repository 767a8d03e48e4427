from tests.ops.cases import Images, table


def raw_calls(images: Images) -> dict[str, dict[str, object]]:
    channels = images.channels
    weights = {
        "depthwise": [images.table(channels, 1, 3, 3), images.table(channels, 1, 5, 5)],
        "pointwise": [images.table(channels, channels, 1, 1) for _ in range(2)],
    }
    tables = {"mean": table(2, channels), "rstd": table(2, channels), "gamma": images.accumulated(2, channels)}
    return {
        "stage_weights_fwd": {**weights, **tables, "beta": None, "dtype": images.accumulation},
        "stage_weights_bwd": {
            "grad_params": images.accumulated(9 + 25 + 4, channels),
            "grad_matrices": images.accumulated(2, channels, channels),
            **weights, **tables, "alive": None, "used": [True, False], "need_depthwise": [True, True],
            "need_pointwise": [False, True], "has_sums": True, "pixels": 30,
        },
    }  # fmt: skip

import torch

from tests.ops.cases import Images, table


def raw_calls(images: Images) -> dict[str, dict[str, object]]:
    channels = images.channels
    running = [images.table(channels), images.accumulated(channels)]
    return {
        "norm_tables": {
            "means": [table(2, channels), table(1, channels)], "variances": [table(2, channels), table(1, channels)],
            "zs": [images.table()], "rows": [0, -1, 3],
            "running_mean": running, "running_var": [t.clone() for t in running], "counts": [torch.tensor(4)],
            "has_running": [True, True, False], "of_batch": [True, False, True], "updates": [True, False, False],
            "eps": [1e-5, 1e-3, 1e-5], "momenta": [0.1, 0.1, 0.1], "values": images.table()[:, 0].numel(),
            "dtype": images.accumulation,
        }
    }  # fmt: skip

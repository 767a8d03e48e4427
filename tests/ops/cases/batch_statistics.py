from tests.ops.cases import Images


def raw_calls(images: Images) -> dict[str, dict[str, object]]:
    x = images.table()
    return {"batch_statistics": {"zs": [x, x]}}

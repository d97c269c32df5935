"""One of two processes of a DistributedContext: `distributed_worker.py RANK RENDEZVOUS OUTPUT`."""

import json
import sys
from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(_REPOSITORY / "common"), str(_REPOSITORY / "pytorch")]


def main(rank, rendezvous, output):
    import numpy as np
    import torch

    from funnel.utils.errors import DataError
    from funnel_torch.training.distributed import DistributedConfig, FirstProcessFailed, start

    torch.set_num_threads(1)
    found = {}
    config = DistributedConfig(rank, 2, device_id=-1, init_method=f"file://{rendezvous}")
    with start(config) as world:
        value = torch.tensor(rank + 1.0)
        found["sum"] = world.sum(value).item()
        found["kept"] = value.item()
        found["gathered"] = [array.tolist() for array in world.gather(np.arange(rank + 1))]
        found["broadcast"] = world.broadcast({"seed": rank})
        model = world.wrap(torch.nn.Linear(1, 1, bias=False))
        model(torch.tensor([[rank + 1.0]])).sum().backward()
        found["gradient"] = model.module.weight.grad.item()
        order = []
        world.rank_zero_first(lambda: order.append(rank))
        world.on_rank_zero(lambda: order.append("first"))
        found["order"] = order

        def fail():
            raise DataError("wrong data")

        try:
            world.rank_zero_first(fail)
        except (DataError, FirstProcessFailed) as error:
            found["failure"] = type(error).__name__
        world.barrier()
    Path(output).write_text(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])

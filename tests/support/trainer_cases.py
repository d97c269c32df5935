"""A noisy line and a linear model: the toy task of the tests of the training loop."""

import numpy as np
import torch

from funnel.config.model import ModelConfig
from funnel_torch.data.batching import BatchConfig, TrainBatches
from funnel_torch.models.heads import HeadOutput
from funnel_torch.training.config import TrainerConfig
from funnel_torch.training.distributed import DistributedContext
from funnel_torch.training.optimizer import ScheduleConfig
from funnel_torch.training.rng import seed_everything
from funnel_torch.training.run_directory import RunDirectory
from funnel_torch.training.trainer import RunOutput, Trainer

ALONE = DistributedContext(0, 1, torch.device("cpu"))
CONFIG = ModelConfig(vocab_size=10)


class Points:
    """x and y of a noisy line, as an example source."""

    target_counts = None

    def __init__(self, n=20, poison=()):
        random = np.random.default_rng(0)
        self.x = random.normal(size=(n, 3)).astype(np.float32)
        self.y = (self.x.sum(1) + random.normal(size=n) / 10).astype(np.float32)
        self.x[list(poison)] = np.nan
        self.lengths = np.ones(n, np.int64)

    def collate(self, indices):
        return {"x": self.x[indices], "labels": self.y[indices]}


class Line(torch.nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.linear = torch.nn.Linear(3, 1)
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, x, labels):
        logits = self.linear(self.dropout(x))[:, 0]
        return HeadOutput(torch.nn.functional.mse_loss(logits, labels), logits)


class ListLog:
    def __init__(self):
        self.rows = []

    def log(self, step, split, **scalars):
        self.rows.append((step, split, scalars))

    def close(self):
        pass


def make(source=None, batches=None, output=None, dropout=0.0, **config):
    seed_everything(0)
    model = Line(dropout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)
    settings = {"total_steps": 12, "log_steps": 1, **config}
    return Trainer(
        model,
        optimizer,
        ScheduleConfig(0.05, settings["total_steps"], 2),
        TrainBatches(source or Points(), batches or BatchConfig(4)),
        TrainerConfig(**settings),
        ALONE,
        output,
    )


class StateSaver:
    def __init__(self, model):
        self.model = model

    def gather(self):
        pass

    def save(self, folder):
        torch.save(self.model.state_dict(), str(folder / "model.pt"))


def directory_output(path, model, log=None):
    directory = RunDirectory(path, {"a": 1})
    directory.create(CONFIG, {"seed": 0})
    return RunOutput(directory, log or ListLog(), StateSaver(model))

"""Every setting of a run: one flat, typed dataclass made of a part for each module."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from asose_fast.bounds import MOST_COST, MOST_EPOCHS, MOST_LAYERS, Bounds, Settings, bounded, shown
from asose_fast.data.config import DataConfig

CANDIDATES = (
    "none",
    "avg_pool_3x3",
    "max_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "sep_conv_7x7",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "conv_7x1_1x7",
)
"""The ten candidate operations, in the order of the logits (docs/concepts.md)."""


CELL_CANDIDATES = {
    "darts": (
        "none",
        "max_pool_3x3",
        "avg_pool_3x3",
        "skip_connect",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "dil_conv_3x3",
        "dil_conv_5x5",
    ),
    "nasbench201": ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"),
}
"""The candidate operations of the spaces of cells, in the order of their logits."""

TEMPERATURE = Bounds(above=0, most=1e6)


@dataclasses.dataclass(frozen=True)
class SpaceConfig(Settings):
    """The search space (docs/spaces.md)."""

    space: Literal["chain", "darts", "nasbench201"] = "chain"
    """A chain of evolvable blocks, or a network of cells whose edges are mixed operations."""

    channels: int = bounded(16, least=1, most=65536)
    """Channels of the stem; they double at blocks 1 and 3."""
    depth: int = bounded(6, least=1, most=MOST_LAYERS)
    """Number of evolvable blocks at the start, of the chain."""
    cells: int | None = bounded(None, least=1, most=MOST_LAYERS)
    """Number of cells: of darts in all (8), of nasbench201 in each of its three stages (5)."""
    candidates: tuple[str, ...] = ()
    """Candidate operations, in the order of the logits; none given: those of the space."""

    def __post_init__(self) -> None:
        if self.candidates is not None and not self.candidates:
            object.__setattr__(self, "candidates", CELL_CANDIDATES.get(self.space, CANDIDATES))
        super().__post_init__()


@dataclasses.dataclass(frozen=True)
class PhaseConfig(Settings):
    """Lengths of the phases."""

    warmup_epochs: int = bounded(10, least=0, most=MOST_EPOCHS)
    """Weights only, on paths as `warmup` says."""
    search_epochs: int = bounded(30, least=0, most=MOST_EPOCHS)
    """Weights and architecture in turn."""
    growth_epochs: int = bounded(40, least=0, most=MOST_EPOCHS)
    """As search, without boost; the network grows when validation accuracy stalls."""
    optimize_epochs: int = bounded(20, least=0, most=MOST_EPOCHS)
    """Weights of the derived network."""
    epochs: int | None = bounded(None, least=1, most=4 * MOST_EPOCHS)
    """All epochs together: rescales the four phases, each of which keeps at least one."""


@dataclasses.dataclass(frozen=True)
class SelectorConfig(Settings):
    """Architecture sampling (docs/concepts.md)."""

    warmup: Literal["uniform", "skip"] = "uniform"
    """Paths of the warmup: uniformly random, so that every candidate is trained, or the fixed skip of the original."""
    temperature: float = bounded(1.5, above=0, most=1e6)
    """Gumbel-softmax temperature at the start of the search."""
    temperature_decay: float = bounded(0.995, above=0, most=1)
    """Factor after each alpha step."""
    temperature_floor: float = bounded(0.1, above=0, most=1e6)
    """Smallest temperature."""
    search_temperature_floor: float = bounded(0.5, above=0, most=1e6)
    """Smallest temperature that the search phase samples with; the schedule itself is not clamped by it."""
    boost_top_k: int = bounded(3, least=0, most=1000)
    """How many leading logits of an undecided layer are boosted in the search phase; 0: none."""
    boost_amount: float = bounded(0.5, least=0, most=1000)
    """What is added to them."""
    boost_below: float = bounded(0.4, least=0, most=1)
    """A layer is undecided while its largest probability is below this."""
    alpha_std: float = bounded(0.5, least=0, most=1000)
    """Standard deviation of the initial logits."""
    alpha_none: float = bounded(-2.0, least=-1000, most=1000)
    """Initial logit of `none`."""
    alpha_skip: float = bounded(1.0, least=-1000, most=1000)
    """Initial logit of `skip_connect`."""
    alpha_noise: float = bounded(0.05, least=0, most=1000)
    """Standard deviation of the noise added to the logits when the search begins."""
    opening_steps: int = bounded(20, least=1, most=10**9)
    """Alpha steps over which a candidate that growth adds comes from weight 0 to that of its logit."""


@dataclasses.dataclass(frozen=True)
class EstimatorConfig(Settings):
    """How alpha's gradient is estimated (docs/estimators.md)."""

    estimator: Literal["straight_through", "soft", "reinmax", "gumbel_rao", "gdas", "local_score", "two_path"] = (
        "straight_through"
    )
    """What alpha steps sample and run, and the gradient that alpha gets."""
    gumbel_rao_samples: int = bounded(16, least=1, most=10**4)
    """Of `gumbel_rao`: draws of the noise that its gradient is the mean of."""
    baseline_momentum: float = bounded(0.9, least=0, below=1)
    """Of `local_score`: how much of a layer's baseline stays at each alpha step."""


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Settings):
    """SGD with a cosine for the weights, Adam for alpha (docs/concepts.md)."""

    learning_rate: float = bounded(0.025, least=0, most=1e30)
    """Of the weights, at the start of the supernet's training and again of the derived network's."""
    learning_rate_min: float = bounded(0.001, least=0, most=1e30)
    """Where the cosine of the supernet ends; that of the derived network ends at 0."""
    momentum: float = bounded(0.9, least=0, most=1)
    weight_decay: float = bounded(3e-4, least=0, most=1e30)
    gradient_clip: float = bounded(5.0, least=0, most=1e30)
    """Largest norm of the weights' gradient; 0: no bound."""
    alpha_learning_rate: float | None = bounded(None, least=0, most=1e30)
    """Of alpha. None: 12 / (alpha steps of the search phase), between 0.0003 and 0.1, since Adam moves a logit by about
    its rate in each step and a layer must be able to decide within the phase however short it is."""
    alpha_every: int = bounded(5, least=2, most=10**9)
    """Every so many batches one is an alpha step."""


@dataclasses.dataclass(frozen=True)
class GrowthConfig(Settings):
    """When the network grows."""

    growth_patience: int = bounded(5, least=1, most=MOST_EPOCHS)
    """Epochs without enough improvement before it grows."""
    growth_threshold: float = bounded(2.0, least=-100, most=100)
    """Percentage points of validation accuracy that count as an improvement."""
    growth_kinds: tuple[Literal["deeper", "wider", "branch"], ...] = ("deeper", "wider", "branch")
    """How it grows, in turn: by a block, by channels of a stage, or by the next of `growth_candidates` in every block
    while there is one."""
    growth_factor: float = bounded(1.5, above=1, most=100)
    """By how much a stage gets wider."""
    growth_noise: float = bounded(0.3, least=0, most=1000)
    """Relative standard deviation of the shares that the replicas of a channel get of its weights. They change no
    output; without them, at 0, replicas never part."""
    growth_candidates: tuple[str, ...] = ()
    """Candidate operations to add, besides `candidates`."""
    max_depth: int = bounded(9, least=1, most=MOST_LAYERS)
    """Blocks at most."""
    max_parameters: int | None = bounded(None, least=1, most=MOST_COST)
    """Parameters at most, of any network that can be derived; None: no bound."""
    max_flops: int | None = bounded(None, least=1, most=MOST_COST)
    """FLOPs at most, of any network that can be derived, for one image (2 for a multiplication with its addition)."""


@dataclasses.dataclass(frozen=True)
class DerivationConfig(Settings):
    """Which architecture is derived at the end of the search (docs/derive.md)."""

    derive_among: int = bounded(0, least=0, most=10**5)
    """So many likely architectures are drawn besides the most probable one, and of all the best on the validation
    images is derived; 0: the most probable."""


@dataclasses.dataclass(frozen=True)
class BudgetConfig(Settings):
    """What the derived network may cost (docs/derive.md). Growth's ceilings, `max_parameters` and `max_flops`, bound
    every network that could be derived; these bound the one that is, by the choice of its operations."""

    derive_max_parameters: int | None = bounded(None, least=1, most=MOST_COST)
    """Parameters at most; None: no bound."""
    derive_max_flops: int | None = bounded(None, least=1, most=MOST_COST)
    """FLOPs at most, for one image; None: no bound."""
    budget_weight: float = bounded(1.0, least=0, most=1e30)
    """Weight in alpha's loss of the share by which the expected cost is above these bounds."""


@dataclasses.dataclass(frozen=True)
class GuardConfig(Settings):
    """What keeps a search from collapsing (docs/stability.md)."""

    beta_decay: float = bounded(0.0, least=0, most=1e30)
    """Weight of the mean log-sum-exp of the layers' logits in alpha's loss, reached linearly over the search phase."""
    alpha_order: Literal["first", "second"] = "first"
    """Whether alpha's gradient is taken at the present weights or through their next step, at three times the cost."""
    guard: Literal["off", "warn", "rollback"] = "warn"
    """What follows signs of a collapse at the end of an epoch of search or growth: nothing, a warning, or a return to
    the last healthy epoch with half the learning rate of alpha."""
    guard_rollbacks: int = bounded(3, least=0, most=MOST_EPOCHS)
    """Returns at most; after as many, alpha stays what it was in the last healthy epoch, and nothing grows."""
    guard_accuracy: float = bounded(0.6, least=0, most=1000)
    """Least accuracy of sampled paths, as a share of the warmup's last; of a loss that is the metric, 1 minus this is
    how far it may rise, as a share of the largest loss of the warmup's epochs."""
    guard_idle: float = bounded(0.75, least=0, most=1)
    """Largest share that may go to the candidates without weights of the probability that the others had at the
    warmup's end."""
    guard_curvature: float = bounded(1.34, least=1, most=1e30)
    """Largest growth of the curvature within 5 epochs."""
    curvature_every: int = bounded(0, least=0, most=MOST_EPOCHS)
    """Epochs between measurements of the validation loss's curvature in alpha; 0: never."""


@dataclasses.dataclass(frozen=True)
class HealthConfig(Settings):
    """Bounds of the indicators."""

    max_weight_above: float = bounded(0.4, least=0, most=1)
    """Mean over layers of the largest architecture probability."""
    entropy_below: float = bounded(1.8, least=0, most=1e6)
    """Mean over layers of the architecture's entropy, in nats."""
    accuracy_above_chance: float = bounded(2.5, least=0, most=1e6)
    """Accuracy of the sampled paths on the images they train on, in multiples of 1 / classes (one half at most)."""
    throughput_steady: float = bounded(0.5, least=0, most=1e6)
    """Images per second, the median of the last 5 epochs over that of the phase so far."""


@dataclasses.dataclass(frozen=True)
class CheckpointConfig(Settings):
    """When a run writes checkpoints, beside the end of every epoch: what a kill loses at most."""

    checkpoint_seconds: float | None = bounded(300.0, least=0, most=1e9)
    """Write one after the first step that ends so many seconds after the last one; None: by steps alone."""
    checkpoint_steps: int | None = bounded(None, least=1, most=10**9)
    """Write one so many steps after the last one; None: by seconds alone."""
    checkpoints_kept: int = bounded(3, least=1, most=10**6)
    """How many stay, the newest first; the older ones serve where a newer one is damaged."""


@dataclasses.dataclass(frozen=True)
class ProcessesConfig(Settings):
    """Of a run in several processes (torchrun)."""

    share_samples: bool = True
    """All processes sample one architecture in a step; otherwise each its own, and gradients are means over them."""
    sync_batch_norm: bool = False
    """Batch norm takes its statistics from the images of all processes: results do not depend on their number, but
    every norm waits for the others, and the fused layers of the CPU are not used. Otherwise each process takes those of
    its own part of the batch."""
    process_timeout: float = bounded(600.0, above=0, most=1e9)
    """Seconds without an answer after which another process counts as lost and the run ends."""


@dataclasses.dataclass(frozen=True)
class RunConfig(Settings):
    """What belongs to no other part."""

    batch_size: int = bounded(64, least=1, most=10**6)
    """Images per step, of all processes together; the last batch of an epoch may be smaller."""
    recalibration_batches: int = bounded(16, least=1, most=10**6)
    """Training batches that set the batch-norm statistics of a derived path before it is evaluated."""
    seed: int = bounded(0, least=-(2**63), most=2**63 - 1)
    """Of everything random."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: cuda where there is one. Of several processes each takes a GPU of its own."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the steps' forward and backward pass: bf16 takes bfloat16 wherever autocast allows it. Weights, optimizers,
    loss and metrics stay in float32, and so do evaluations."""
    graphs: Literal["auto", "off"] = "off"
    """CUDA graphs of the steps: auto where they can be captured, with a warning where not. Off until they have been run
    and measured on a GPU, which they have not yet."""
    threads: int | None = bounded(None, least=1, most=1024)
    """CPU threads of a process. By default as many as torch takes, or the process's share of the cores where there are
    several, but one where steps are too small to gain from more."""
    strict: bool = False
    """End with a non-zero exit status where a health indicator is out of bounds at the end of the search."""


@dataclasses.dataclass(frozen=True)
class Config(
    RunConfig,
    ProcessesConfig,
    CheckpointConfig,
    HealthConfig,
    GuardConfig,
    BudgetConfig,
    DerivationConfig,
    GrowthConfig,
    OptimizerConfig,
    EstimatorConfig,
    SelectorConfig,
    PhaseConfig,
    SpaceConfig,
    DataConfig,
):
    """Every setting of a run. A part of the program takes a Config where it asks for its own part.

    Raises ValueError for a setting of another type or out of bounds.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.space != "chain":
            bounds = ("max_parameters", "max_flops", "derive_max_parameters", "derive_max_flops")
            if given := [name for name in bounds if getattr(self, name) is not None]:
                raise ValueError(f"{given[0]} bounds networks of the space chain; the space is {self.space}")
        if self.sync_batch_norm and not self.share_samples:
            raise ValueError(
                "sync_batch_norm needs share_samples: processes that sample different operations share no norms"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in YAML."""
        values = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Config:
        """The inverse of `to_dict`. Raises ValueError for an unknown or a missing key, or a setting out of range."""
        if not isinstance(values, dict):
            raise ValueError(f"the settings must be names with values, got {shown(values)}")
        unlike = values.keys() ^ {field.name for field in dataclasses.fields(Config)}
        if unlike:
            raise ValueError(
                f"the settings are not those of this release; unknown or missing: {', '.join(sorted(map(str, unlike)))}"
            )
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return Config(**settings)

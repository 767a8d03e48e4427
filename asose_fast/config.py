"""This module has every setting of a run: one flat, typed dataclass, made of a part for each module."""

from __future__ import annotations

import dataclasses
from collections.abc import Container
from typing import Any, Literal

from asose_fast.bounds import MOST_COST, MOST_EPOCHS, MOST_LAYERS, MOST_SECONDS, Bounds, Settings, bounded, shown
from asose_fast.data.config import DataConfig
from asose_fast.training_config import OptimizeConfig, OptimizerConfig, RecipeConfig, require_momentum

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
"""These are the ten candidate operations, in the order of the logits (docs/concepts.md)."""


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
"""The spaces of cells have these candidate operations, in the order of their logits."""

SPACE_CANDIDATES = {
    "chain": CANDIDATES,
    "stages": (
        "skip_connect",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "dil_conv_3x3",
        "nor_conv_3x3",
        "res_conv_3x3",
    ),
    "mobile": (
        "skip_connect",
        "mbconv_3x3_e3",
        "mbconv_3x3_e6",
        "mbconv_5x5_e3",
        "mbconv_5x5_e6",
        "mbconv_3x3_e3_se",
        "mbconv_5x5_e6_se",
    ),
    **CELL_CANDIDATES,
}
"""All spaces have these candidate operations where none are given, in the order of their logits."""

TEMPERATURE = Bounds(above=0, most=1e6)


@dataclasses.dataclass(frozen=True)
class SpaceConfig(Settings):
    """The space holds all networks that a search can find (docs/spaces.md)."""

    space: Literal["chain", "stages", "mobile", "darts", "nasbench201"] = "chain"
    """The space chain has chains of evolvable blocks. The space stages has a plain convolutional network with such
    blocks before its 3x3 convolutions, and mobile a chain of inverted bottlenecks. The others have networks of cells,
    whose edges are mixed operations."""

    channels: int = bounded(16, least=1, most=65536)
    """The stem has so many channels. They double at blocks 1 and 3 of a chain, and between the stages of stages."""
    depth: int = bounded(6, least=1, most=MOST_LAYERS)
    """The search begins with so many evolvable blocks; in stages they are divided among three."""
    cells: int | None = bounded(None, least=1, most=MOST_LAYERS)
    """A network of darts has so many cells in all (8), one of nasbench201 in each of its three stages (5)."""
    candidates: tuple[str, ...] = ()
    """These are the candidate operations, in the order of the logits. Where none is given, they are those of the
    space."""
    stem_stride: Literal[1, 2, 4] | None = None
    """The stem of chain and stages makes the sides of an image so many times smaller. None: 1 below 96 pixels, 2 below
    192, and 4 from there on."""

    def __post_init__(self) -> None:
        if self.candidates is not None and not self.candidates:
            object.__setattr__(self, "candidates", SPACE_CANDIDATES.get(self.space, CANDIDATES))
        super().__post_init__()
        if self.space in CELL_CANDIDATES and self.stem_stride not in (None, 1):
            raise ValueError(f"stem_stride is for the spaces chain and stages, got {self.stem_stride} for {self.space}")


@dataclasses.dataclass(frozen=True)
class PhaseConfig(Settings):
    """A run has four phases, of so many epochs each, and a fifth where `finals_epochs` is not 0."""

    warmup_epochs: int = bounded(10, least=0, most=MOST_EPOCHS)
    """The warmup trains weights alone, on paths as `warmup` says."""
    search_epochs: int = bounded(30, least=0, most=MOST_EPOCHS)
    """The search trains weights and architecture in turn."""
    growth_epochs: int = bounded(40, least=0, most=MOST_EPOCHS)
    """Growth is a search without boost, in which the network grows when validation accuracy stalls."""
    optimize_epochs: int = bounded(20, least=0, most=MOST_EPOCHS)
    """The last phase trains the weights of the derived network."""
    epochs: int | None = bounded(None, least=1, most=4 * MOST_EPOCHS)
    """The phases are rescaled to so many epochs together; each keeps at least one. None: they stay as they are."""
    seconds: float | None = bounded(None, above=0, most=MOST_SECONDS)
    """The run takes about so many seconds in all. Its phases are rescaled to what this machine does in the time, and
    again as they go on; each keeps at least one epoch. None: it takes as long as its epochs do."""
    finals_epochs: int = bounded(0, least=0, most=MOST_EPOCHS)
    """Before the last phase, several likely networks are trained against each other, and the best is derived. All of
    them together take the batches of so many epochs; 0: there are no finals."""


@dataclasses.dataclass(frozen=True)
class SelectorConfig(Settings):
    """The selector samples architectures (docs/concepts.md)."""

    warmup: Literal["uniform", "skip"] = "uniform"
    """The paths of the warmup are uniformly random, so that every candidate is trained, or the fixed skip of the
    original."""
    temperature: float = bounded(1.5, above=0, most=1e6)
    """The temperature of the Gumbel-softmax is this at the start of the search."""
    temperature_decay: float = bounded(0.995, above=0, most=1)
    """Each alpha step multiplies the temperature by this factor."""
    temperature_floor: float = bounded(0.1, above=0, most=1e6)
    """The temperature does not fall below this."""
    search_temperature_floor: float = bounded(0.5, above=0, most=1e6)
    """The search phase samples with no smaller temperature than this; the schedule itself is not clamped by it."""
    boost_top_k: int = bounded(3, least=0, most=1000)
    """So many leading logits of an undecided layer are boosted in the search phase; 0: none."""
    boost_amount: float = bounded(0.5, least=0, most=1000)
    """A boosted logit gets this added."""
    boost_below: float = bounded(0.4, least=0, most=1)
    """A layer is undecided while its largest probability is below this."""
    alpha_std: float = bounded(0.5, least=0, most=1000)
    """The initial logits have this standard deviation."""
    alpha_none: float = bounded(-2.0, least=-1000, most=1000)
    """The logit of `none` begins at this value."""
    alpha_skip: float = bounded(1.0, least=-1000, most=1000)
    """The logit of `skip_connect` begins at this value."""
    alpha_noise: float = bounded(0.05, least=0, most=1000)
    """Noise of this standard deviation is added to the logits when the search begins."""
    opening_steps: int = bounded(20, least=1, most=10**9)
    """A candidate that growth adds comes from weight 0 to that of its logit over so many alpha steps."""


@dataclasses.dataclass(frozen=True)
class EstimatorConfig(Settings):
    """The estimator gives alpha its gradient (docs/estimators.md)."""

    estimator: Literal["straight_through", "soft", "reinmax", "gumbel_rao", "gdas", "local_score", "two_path"] = (
        "straight_through"
    )
    """The estimator decides what alpha steps sample and run, and which gradient alpha gets."""
    gumbel_rao_samples: int = bounded(16, least=1, most=10**4)
    """The gradient of `gumbel_rao` is a mean over so many draws of its noise."""
    baseline_momentum: float = bounded(0.9, least=0, below=1)
    """This share of a layer's baseline stays at each alpha step of `local_score`."""


@dataclasses.dataclass(frozen=True)
class GrowthConfig(Settings):
    """The network grows when its accuracy stalls."""

    growth_patience: int = bounded(5, least=1, most=MOST_EPOCHS)
    """The network grows after so many epochs without enough improvement."""
    growth_threshold: float = bounded(2.0, least=-100, most=100)
    """So many percentage points of validation accuracy count as an improvement."""
    growth_kinds: tuple[Literal["deeper", "wider", "branch"], ...] = ("deeper", "wider", "branch")
    """The network grows in these ways in turn: by a block, by channels of a stage, or by the next of
    `growth_candidates` in every block while there is one."""
    growth_factor: float = bounded(1.5, above=1, most=100)
    """A stage gets wider by this factor."""
    growth_noise: float = bounded(0.3, least=0, most=1000)
    """The replicas of a channel get shares of its weights with this relative standard deviation. The shares change no
    output; where all are alike, at 0, replicas never part."""
    growth_candidates: tuple[str, ...] = ()
    """Growth adds these candidate operations to `candidates`."""
    max_depth: int = bounded(9, least=1, most=MOST_LAYERS)
    """The network has at most so many blocks."""
    max_parameters: int | None = bounded(None, least=1, most=MOST_COST)
    """Any network that can be derived has at most so many parameters; None: no bound."""
    max_flops: int | None = bounded(None, least=1, most=MOST_COST)
    """Any network that can be derived takes at most so many FLOPs for one image (2 for a multiplication with its
    addition); None: no bound."""


@dataclasses.dataclass(frozen=True)
class DerivationConfig(Settings):
    """One architecture is derived at the end of the search (docs/derive.md)."""

    derive_among: int = bounded(0, least=0, most=10**5)
    """So many architectures are measured on the validation images, and the best is derived; 0: the most probable."""
    derive_by: Literal["validation", "random", "evolution"] = "validation"
    """Those that are measured are the most probable one and likely others besides it, uniformly random ones, or what
    regularised evolution breeds."""
    finals_paths: int = bounded(8, least=2, most=10**4)
    """The finals begin with so many different networks, and halve their number again and again."""
    finals_from: Literal["alpha", "uniform"] = "alpha"
    """The finals begin with the most probable network and likely others, or with uniformly random ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.derive_by != "validation" and not self.derive_among:
            raise ValueError(f"derive_by: {self.derive_by} measures derive_among networks: give derive_among, 32 say")


@dataclasses.dataclass(frozen=True)
class LatencyConfig(Settings):
    """A network is timed where it is to be fast (docs/derive.md)."""

    latency_device: Literal["cpu", "cuda"] = "cpu"
    """Latencies are those of this device."""
    latency_threads: int = bounded(1, least=1, most=1024)
    """On a CPU, latencies are those of so many threads."""
    latency_batch: int = bounded(1, least=1, most=10**6)
    """Latencies are those of so many images at a time."""


@dataclasses.dataclass(frozen=True)
class BudgetConfig(LatencyConfig):
    """The derived network may cost so much (docs/derive.md). Growth's ceilings, `max_parameters` and `max_flops`, bound
    every network that could be derived; these bound the one that is, by the choice of its operations."""

    derive_max_parameters: int | None = bounded(None, least=1, most=MOST_COST)
    """The derived network has at most so many parameters; None: no bound."""
    derive_max_flops: int | None = bounded(None, least=1, most=MOST_COST)
    """The derived network takes at most so many FLOPs for one image; None: no bound."""
    derive_min_parameters: int | None = bounded(None, least=1, most=MOST_COST)
    """The derived network has at least so many parameters; None: no bound."""
    derive_min_flops: int | None = bounded(None, least=1, most=MOST_COST)
    """The derived network takes at least so many FLOPs for one image; None: no bound."""
    derive_min_share: float = bounded(0.0, least=0, most=1)
    """The derived network takes at least this share of the FLOPs that the dearest one takes, of those within the other
    bounds. It holds where a block's cost is its own: in chain and stages."""
    derive_max_latency: float | None = bounded(None, least=1e-6, most=1e9)
    """The derived network takes at most so many milliseconds, as the candidates are timed on `latency_device`; None: no
    bound."""
    budget_weight: float = bounded(1.0, least=0, most=1e30)
    """The share by which the expected cost is beyond these bounds has this weight in alpha's loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for cost in ("parameters", "flops"):
            least, most = (getattr(self, f"derive_{end}_{cost}") for end in ("min", "max"))
            if least is not None and most is not None and least > most:
                raise ValueError(f"derive_min_{cost} must be at most derive_max_{cost} = {most:,}, got {least:,}")


@dataclasses.dataclass(frozen=True)
class GuardConfig(Settings):
    """The guard keeps a search from collapsing (docs/stability.md)."""

    beta_decay: float = bounded(0.0, least=0, most=1e30)
    """The mean log-sum-exp of the layers' logits has this weight in alpha's loss, reached linearly over the search
    phase."""
    alpha_order: Literal["first", "second"] = "first"
    """The gradient of alpha is taken at the present weights, or through their next step at three times the cost."""
    guard: Literal["off", "warn", "rollback"] = "warn"
    """Signs of a collapse at the end of an epoch of search or growth are followed by nothing, a warning, or a return to
    the last healthy epoch with half the learning rate of alpha."""
    guard_rollbacks: int = bounded(3, least=0, most=MOST_EPOCHS)
    """After so many returns, alpha stays what it was in the last healthy epoch, and nothing grows."""
    guard_accuracy: float = bounded(0.6, least=0, most=1000)
    """The accuracy of sampled paths must be at least this share of the warmup's last. A loss that is the metric may
    rise by 1 minus this, as a share of the largest loss of the warmup's epochs."""
    guard_idle: float = bounded(0.75, least=0, most=1)
    """The candidates without weights may take at most this share of the probability that the others had at the warmup's
    end."""
    guard_curvature: float = bounded(1.34, least=1, most=1e30)
    """The curvature may grow by at most this factor within 5 epochs."""
    curvature_every: int = bounded(0, least=0, most=MOST_EPOCHS)
    """The validation loss's curvature in alpha is measured every so many epochs; 0: never."""


@dataclasses.dataclass(frozen=True)
class HealthConfig(Settings):
    """The indicators of a healthy search have these bounds."""

    max_weight_above: float = bounded(0.4, least=0, most=1)
    """The mean over layers of the largest architecture probability must be above this."""
    entropy_below: float | None = bounded(None, least=0, most=1e6)
    """The mean over layers of the architecture's entropy must be below this, in nats. None: 1.8 of ten candidates, and
    of K the same share of ln K, which is the entropy of a layer that knows nothing."""
    accuracy_above_chance: float = bounded(2.5, least=0, most=1e6)
    """The accuracy of the sampled paths on the images they train on must be above so many times 1 / classes (one half
    at most)."""
    throughput_steady: float = bounded(0.5, least=0, most=1e6)
    """The images per second, as a median of the last 5 epochs, must be above this share of the median of the phase so
    far."""
    weightless_most: float = bounded(0.5, least=0, most=1)
    """Of the most probable network's blocks, in a chain, at most this share may have no weights. A network above it is
    said to be poor at the end of a run."""


@dataclasses.dataclass(frozen=True)
class CheckpointConfig(Settings):
    """A run writes checkpoints at the end of every epoch and in between: what a kill loses at most."""

    checkpoint_seconds: float | None = bounded(300.0, least=0, most=1e9)
    """A checkpoint is written after the first step that ends so many seconds after the last one; None: by steps
    alone."""
    checkpoint_steps: int | None = bounded(None, least=1, most=10**9)
    """A checkpoint is written so many steps after the last one; None: by seconds alone."""
    checkpoints_kept: int = bounded(3, least=1, most=10**6)
    """So many checkpoints stay, the newest; the older ones serve where a newer one is damaged."""


@dataclasses.dataclass(frozen=True)
class ProcessesConfig(Settings):
    """A run may have several processes (torchrun)."""

    share_samples: bool = True
    """All processes sample one architecture in a step; otherwise each samples its own, and gradients are means over
    them."""
    sync_batch_norm: bool = False
    """Batch norm takes its statistics from the images of all processes: results do not depend on their number, but
    every norm waits for the others, and the fused layers of the CPU are not used. Otherwise each process takes those of
    its own part of the batch."""
    process_timeout: float = bounded(600.0, above=0, most=1e9)
    """After so many seconds without an answer another process counts as lost, and the run ends."""


@dataclasses.dataclass(frozen=True)
class RunConfig(Settings):
    """These settings belong to no other part."""

    batch_size: int = bounded(64, least=1, most=10**6)
    """A step takes so many images, in all processes together; the last batch of an epoch may be smaller."""
    recalibration_batches: int = bounded(16, least=1, most=10**6)
    """So many training batches set the batch-norm statistics of a derived path before it is evaluated."""
    seed: int = bounded(0, least=-(2**63), most=2**63 - 1)
    """All that is random is drawn from this seed."""
    device: str = "auto"
    """The device is cpu, cuda, cuda:N, or auto: cuda where there is one. Of several processes each takes a GPU of its
    own."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """The steps' forward and backward pass compute in float32 or, for bf16, in bfloat16 wherever autocast allows it.
    Weights, optimizers, loss and metrics stay in float32, and so do evaluations."""
    graphs: Literal["auto", "off"] = "off"
    """Steps run as CUDA graphs, for auto, where they can be captured, with a warning where not. The default is off
    until they have been run and measured on a GPU, which they have not yet."""
    threads: int | None = bounded(None, least=1, most=1024)
    """A process has so many CPU threads. By default it has as many as torch takes, less the cores that other programs
    keep busy, or its share of the cores where there are several processes. It has fewer where steps are too small to
    gain from more."""
    strict: bool = False
    """The exit status is not 0 where a health indicator is out of bounds at the end of the search."""


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
    OptimizeConfig,
    RecipeConfig,
    OptimizerConfig,
    EstimatorConfig,
    SelectorConfig,
    PhaseConfig,
    SpaceConfig,
    DataConfig,
):
    """A Config has every setting of a run. A part of the program takes one where it asks for its own part.

    Raises ValueError for a setting of another type or out of bounds.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_bounds_of_the_space()
        if self.sync_batch_norm and not self.share_samples:
            raise ValueError(
                "sync_batch_norm needs share_samples: processes that sample different operations share no norms"
            )
        require_momentum(self, self.momentum)
        if self.epochs is not None and self.seconds is not None:
            raise ValueError("epochs and seconds say in two ways how long a run is: leave one of them out")
        if self.derive_among and self.finals_epochs:
            raise ValueError("derive_among and finals_epochs choose what is derived in two ways: leave one of them out")

    def _require_bounds_of_the_space(self) -> None:
        """Raises ValueError for a bound on the cost that the space has no use for, or cannot keep."""
        if self.space not in CELL_CANDIDATES:
            return
        for name in ("max_parameters", "max_flops"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"{name} bounds networks that grow, of the space chain, stages or mobile; the space is {self.space}"
                )
        derived = (f"derive_{end}_{cost}" for end in ("max", "min") for cost in ("parameters", "flops"))
        given = [name for name in derived if getattr(self, name) is not None]
        if given and self.space == "darts":
            raise ValueError(
                f"{given[0]} needs costs that are sums over rows of alpha, as in chain, stages, mobile and "
                "nasbench201; in darts a node keeps two of its edges, and which two depends on all of its rows"
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as plain values, as in YAML."""
        values = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @staticmethod
    def completed(values: dict[str, Any], among: Container[str] | None = None) -> dict[str, Any]:
        """Adds the settings that an earlier release did not have to those of its run: with these it goes on as it was
        begun. Of a training from scratch, which has fewer, they are `among` its own."""
        return {**{name: value for name, value in _LATER.items() if among is None or name in among}, **values}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Config:
        """Inverts `to_dict`. Raises ValueError for an unknown or a missing key, or a setting out of range."""
        if not isinstance(values, dict):
            raise ValueError(f"the settings must be names with values, got {shown(values)}")
        values = Config.completed(values)
        unlike = values.keys() ^ {field.name for field in dataclasses.fields(Config)}
        if unlike:
            raise ValueError(
                f"the settings are not those of this release; unknown or missing: {', '.join(sorted(map(str, unlike)))}"
            )
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return Config(**settings)


_LATER = {
    **{
        field.name: field.default
        for part in (RecipeConfig, OptimizeConfig, LatencyConfig)
        for field in dataclasses.fields(part)
    },
    "cache_root": DataConfig.cache_root,
    "stem_stride": 1,
    "weightless_most": HealthConfig.weightless_most,
    "derive_min_parameters": None,
    "derive_min_flops": None,
    "derive_min_share": 0.0,
    "derive_max_latency": None,
    "finals_epochs": PhaseConfig.finals_epochs,
    "finals_paths": DerivationConfig.finals_paths,
    "finals_from": DerivationConfig.finals_from,
    "derive_by": DerivationConfig.derive_by,
    "seconds": PhaseConfig.seconds,
}

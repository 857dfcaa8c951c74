"""The contract of every bijection, and the two ways to build one from others."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import reduce, wraps
from textwrap import indent
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from flowstone.bijections.constraints import compose_domain
from flowstone.errors import SettingError, ShapeError
from flowstone.validation import require_instance, require_integer

__all__ = ["Bijection", "Chain", "Inverse", "State", "walk"]

Direction = Callable[..., tuple[Tensor, Tensor]]


class State(NamedTuple):
    """A value between two layers: the layer it comes from, the value, and that layer's log-det ``(batch,)``."""

    layer: "Bijection | None"
    value: Tensor
    log_det: Tensor


class Bijection(nn.Module, ABC):
    r"""An invertible map between data and latent, with its log-determinant.

    One direction for the whole library: ``forward`` runs **data → latent**, ``inverse`` runs **latent → data**.

    $$ z = f(x), \qquad \log p(x) = \log p_\text{prior}(f(x)) + \log |\det \tfrac{\partial f}{\partial x}| $$

    A subclass promises, for x of shape ``(batch, *event)`` and context ``None`` or ``(batch, context_features)``:

    - ``forward(x, context)`` returns ``(z, log_det)``: log_det of shape ``(batch,)`` = log|det dz/dx|;
    - ``inverse(z, context)`` returns ``(x, log_det)``: log_det of shape ``(batch,)`` = log|det dx/dz|;
    - the two undo each other, and their log-dets cancel;
    - row i of the result depends on row i of the input alone (``BatchNorm`` in training is the one exception);
    - z has the shape of x, unless ``latent_shape`` says otherwise;
    - it builds no network itself: a network is an argument of its constructor.

    Both methods are wrapped when a subclass is defined: the width of the input and the shape of the log-det are
    checked there, and ``torch.autocast`` lowers the precision of conditioner nets but not of the bijection itself.
    To change a bijection, wrap it; do not override its methods.

    Attributes:
        features: the number of features of x (of images: channels) where the bijection knows it, else None.
        latent_features: the number of features of z; a subclass sets it where it differs from ``features``.
        event_dims: the number of dimensions of one x where it is fixed (1 of vectors, 3 of images), else None.
        latent_dims: the number of dimensions of one z where it is fixed, else None.
        stochastic: whether it draws noise (``Dequantize``), from torch's global random state or as ``noise_from`` says.
        accepts_any_dtype: whether ``forward`` takes x of any dtype, integers too, and z has the flow's precision.
        keeps_autocast: whether ``torch.autocast`` stays on inside it, as it must where nets or other bijections run.
    """

    features: int | None = None
    latent_features: int | None = None
    event_dims: int | None = None
    latent_dims: int | None = None
    stochastic = False
    accepts_any_dtype = False
    keeps_autocast = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in ("forward", "inverse"):
            if name in vars(cls):
                setattr(cls, name, _checked(vars(cls)[name]))

    def __init__(self, features: int | None = None, latent_features: int | None = None) -> None:
        super().__init__()
        if features is not None:
            require_integer(f"{type(self).__name__}: features", features)
        self.features = features
        self.latent_features = features if latent_features is None else latent_features

    @abstractmethod
    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data → latent: ``(z, log|det dz/dx|)``."""

    @abstractmethod
    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Latent → data: ``(x, log|det dx/dz|)``."""

    @property
    def domain(self) -> Constraint:
        """The values that each feature of x may have; the log-det of others is minus infinity.

        Where they depend on several features at once it is ``constraints.dependent(is_discrete=…)``.
        """
        return constraints.real

    @property
    def codomain(self) -> Constraint:
        """The values that each feature of z may have."""
        return constraints.real

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Set what depends on data (means, scales) from one large batch. Most bijections have nothing to set."""
        del x, context

    def sublayers(self) -> "tuple[Bijection, ...]":
        """The bijections that this one is made of, in the order in which a data point meets them."""
        return ()

    def states(self, x: Tensor, context: Tensor | None = None) -> list[State]:
        """Data → latent, with the value after each layer of a chain."""
        return [State(self, *self(x, context))]

    def inverse_states(self, z: Tensor, context: Tensor | None = None) -> list[State]:
        """Latent → data, with the value after each layer of a chain."""
        return [State(self, *self.inverse(z, context))]

    def latent_shape(self, event_shape: torch.Size) -> torch.Size:
        """Shape of one z, given that of one x: the same, unless the bijection squeezes or flattens images.

        Raises:
            ShapeError: the bijection is not for x of this shape.
        """
        self._check_shape(event_shape, event_shape, self.features, self.event_dims)
        return event_shape

    def event_shape(self, latent_shape: torch.Size) -> torch.Size:
        """Shape of one x, given that of one z."""
        self._check_shape(latent_shape, latent_shape, self.latent_features, self.latent_dims)
        return latent_shape

    def extra_repr(self) -> str:
        """The number of features, where it is known and the bijection is not made of others."""
        return "" if self.features is None or self.sublayers() else f"{self.features}"

    def __repr__(self) -> str:
        """One line; a bijection that is made of several others has a line for each of them."""
        own, inner = self.extra_repr(), [repr(layer) for layer in self.sublayers()]
        if len(inner) < 2 and "\n" not in "".join(inner):
            return f"{type(self).__name__}({', '.join(filter(None, [own, *inner]))})"
        return f"{type(self).__name__}({own}\n{indent(chr(10).join(inner), '  ')}\n)"

    def _check_shape(self, row: torch.Size, shape: torch.Size, features: int | None, dims: int | None) -> None:
        """Refuse a row of another width or number of dimensions; ``shape`` is what the message says was given."""
        if not row or (features is not None and row[0] != features) or len(row) != (dims or len(row)):
            width, rest = features or "features", {1: "", 3: ", height, width"}.get(dims or 0, ", …")
            batch = "" if shape is row else "batch, "
            raise ShapeError(f"{type(self).__name__}: expected shape ({batch}{width}{rest}), got {tuple(shape)}")


def _checked(direction: Direction) -> Direction:
    """``forward`` or ``inverse`` of a subclass, with the checks that every bijection gets."""
    runs_back = direction.__name__ == "inverse"

    @wraps(direction)
    def call(self: Bijection, value: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if runs_back:
            self._check_shape(value.shape[1:], value.shape, self.latent_features, self.latent_dims)
        else:
            self._check_shape(value.shape[1:], value.shape, self.features, self.event_dims)
        device = value.device.type
        if not self.keeps_autocast and device != "meta" and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                both = direction(self, value, context)
        else:
            both = direction(self, value, context)
        if not isinstance(both, tuple) or len(both) != 2 or not isinstance(both[1], Tensor):
            raise ShapeError(
                f"{type(self).__name__}: {direction.__name__} returns a value and its log_det, two tensors"
            )
        result, log_det = both
        if log_det.shape != value.shape[:1]:
            raise ShapeError(f"{type(self).__name__}: log_det has shape {tuple(log_det.shape)}, expected (batch,)")
        return result, log_det

    return call


def walk(bijection: Bijection) -> Iterator[Bijection]:
    """``bijection`` and all that it is made of, at every depth, in the order in which a data point meets them.

    >>> from flowstone.bijections import Chain, Inverse, LeakyReLU, Scaling, walk
    >>> [type(layer).__name__ for layer in walk(Chain(Scaling(2), Inverse(LeakyReLU())))]
    ['Chain', 'Scaling', 'Inverse', 'LeakyReLU']
    """
    yield bijection
    for layer in bijection.sublayers():
        yield from walk(layer)


class Chain(Bijection):
    r"""Bijections one after the other; the first one touches the data, the last one the latent.

    $$ f = f_L \circ \dots \circ f_1, \qquad \log|\det| = \sum_l \log|\det J_l| $$

    Raises:
        SettingError: no bijection is given, or something that is none, such as a list of bijections.
        ShapeError: two neighbours are of different widths.

    >>> import torch
    >>> from flowstone.bijections import Chain, Permutation, Scaling
    >>> chain = Chain(Permutation.reverse(3), Scaling(3))
    >>> z, log_det = chain(torch.tensor([[1.0, 2.0, 3.0]]))
    >>> z.tolist(), log_det.tolist()
    ([[3.0, 2.0, 1.0]], [0.0])
    """

    keeps_autocast = True

    def __init__(self, *bijections: Bijection) -> None:
        if not bijections:
            raise SettingError("Chain needs at least one bijection")
        for link in bijections:
            require_instance("Chain takes bijections one by one, as in Chain(a, b)", link, Bijection)
        super().__init__()
        self.features, self.latent_features = _widths(bijections)
        self.links = nn.ModuleList(bijections)
        self.event_dims = _first_known(link.event_dims for link in bijections)
        self.latent_dims = _first_known(link.latent_dims for link in reversed(bijections))
        self.accepts_any_dtype = bijections[0].accepts_any_dtype

    @property
    def domain(self) -> Constraint:
        return compose_domain((link.domain, link.codomain) for link in self.sublayers())

    @property
    def codomain(self) -> Constraint:
        return compose_domain((link.codomain, link.domain) for link in reversed(self.sublayers()))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, log_dets = x, []
        for link in self.links:
            z, log_det = link(z, context)
            log_dets.append(log_det)
        return z, reduce(torch.add, log_dets)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, log_dets = z, []
        for link in reversed(self.sublayers()):
            x, log_det = link.inverse(x, context)
            log_dets.append(log_det)
        return x, reduce(torch.add, log_dets)

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        links = list(self.sublayers())
        while links and type(links[-1]).initialize is Bijection.initialize:
            links.pop()  # links after the last one that is set from data need not be computed
        for link in links:
            link.initialize(x, context)
            if link is not links[-1]:
                x, _ = link(x, context)

    def sublayers(self) -> tuple[Bijection, ...]:
        return tuple(cast(Bijection, link) for link in self.links)

    def states(self, x: Tensor, context: Tensor | None = None) -> list[State]:
        states: list[State] = []
        for link in self.sublayers():
            states += link.states(x, context)
            x = states[-1].value
        return states

    def inverse_states(self, z: Tensor, context: Tensor | None = None) -> list[State]:
        states: list[State] = []
        for link in reversed(self.sublayers()):
            states += link.inverse_states(z, context)
            z = states[-1].value
        return states

    def latent_shape(self, event_shape: torch.Size) -> torch.Size:
        return reduce(lambda shape, link: link.latent_shape(shape), self.sublayers(), event_shape)

    def event_shape(self, latent_shape: torch.Size) -> torch.Size:
        return reduce(lambda shape, link: link.event_shape(shape), reversed(self.sublayers()), latent_shape)


def _first_known(values: Iterable[int | None]) -> int | None:
    return next((value for value in values if value is not None), None)


def _widths(links: tuple[Bijection, ...]) -> tuple[int | None, int | None]:
    """The widths of x and z of a chain, as far as its links know them."""
    first = width = None
    known = True  # whether no link so far may have changed the width
    for index, link in enumerate(links):
        if link.features is not None:
            if width is not None and link.features != width:
                raise ShapeError(
                    f"Chain: link {index + 1}, {type(link).__name__}, is of {link.features} features, "
                    f"but {width} come out of the links before it"
                )
            width = link.features
            first = width if known else first
        if type(link).latent_shape is not Bijection.latent_shape:  # such a link may change the width
            width, known = link.latent_features, False
    return first, width


class Inverse(Bijection):
    """The same map with its directions swapped: ``forward`` of the new one is ``inverse`` of the old one.

    ``initialize`` sets nothing in the inner bijection: a layer that standardises its input would, when it is inverted,
    scale its input the wrong way.

    >>> import torch
    >>> from flowstone.bijections import Inverse, Permutation
    >>> order = Permutation(torch.tensor([2, 0, 1]))
    >>> Inverse(order)(order(torch.tensor([[5.0, 6.0, 7.0]]))[0])[0].tolist()
    [[5.0, 6.0, 7.0]]
    """

    keeps_autocast = True

    def __init__(self, bijection: Bijection) -> None:
        super().__init__()
        require_instance("Inverse takes a bijection", bijection, Bijection)
        self.features, self.latent_features = bijection.latent_features, bijection.features
        self.event_dims, self.latent_dims = bijection.latent_dims, bijection.event_dims
        self.bijection = bijection

    @property
    def domain(self) -> Constraint:
        return self.bijection.codomain

    @property
    def codomain(self) -> Constraint:
        return self.bijection.domain

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.bijection.inverse(x, context)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.bijection(z, context)

    def sublayers(self) -> tuple[Bijection, ...]:
        return (self.bijection,)

    def latent_shape(self, event_shape: torch.Size) -> torch.Size:
        return self.bijection.event_shape(event_shape)

    def event_shape(self, latent_shape: torch.Size) -> torch.Size:
        return self.bijection.latent_shape(latent_shape)

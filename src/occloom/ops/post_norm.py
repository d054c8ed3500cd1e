"""What follows attention in a layer that normalises afterwards: add, normalise, a small network, add, normalise."""

from jaxtyping import Float
from torch import Tensor, nn


def feedforward(channels: int, hidden: int, dropout: float) -> nn.Sequential:
    """Two linear layers with a ReLU between them and dropout behind each."""
    return nn.Sequential(
        nn.Linear(channels, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(hidden, channels),
        nn.Dropout(dropout),
    )


class PostNormLayer(nn.Module):
    """Base of attention layers whose sums are normalised after each part; the attention is the subclass's own."""

    def __init__(self, channels: int, *, hidden: int, dropout: float) -> None:
        """Make what follows the attention.

        Args:
            channels: C.
            hidden: Features between the two linear layers.
            dropout: Of the attention's update, and in the small network.
        """
        super().__init__()
        self.attention_norm = nn.LayerNorm(channels)
        self.feedforward = feedforward(channels, hidden, dropout)
        self.feedforward_norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def settled(self, queries: Float[Tensor, "*q C"], update: Float[Tensor, "*q C"]) -> Float[Tensor, "*q C"]:
        """Queries after the attention's update and the small network."""
        queries = self.attention_norm(queries + self.dropout(update))
        return self.feedforward_norm(queries + self.feedforward(queries))

"""Random crops and flips of training images, computed for a whole batch on its device."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Augmentation:
    """Random crops and horizontal flips, a new draw for each image of each batch (TPAMI section IV-B).

    An image is framed by `padding` black pixels on each side, cut to its former size at a place drawn uniformly,
    and mirrored with probability one half.
    """

    padding: int = 4
    flip: bool = True
    black: tuple[float, ...] = (0.0,)
    """Value of a black pixel after standardisation: one, or one for each channel."""

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Images (rows, channels, height, width), changed; a CPU generator's draws are the same on all devices."""
        rows, _, height, width = x.shape
        places = torch.randint(2 * self.padding + 1, (2, rows), generator=generator).to(x.device)
        y_index = places[0, :, None] + torch.arange(height, device=x.device)
        x_index = places[1, :, None] + torch.arange(width, device=x.device)
        if self.flip:
            mirrored = torch.randint(2, (rows, 1), generator=generator).to(x.device).bool()
            x_index = torch.where(mirrored, x_index.flip(1), x_index)
        black = x.new_tensor(self.black).view(-1, 1, 1)
        framed = functional.pad(x - black, [self.padding] * 4)
        # Of row n and channel c, pixel (i, j) is framed[n, c, y_index[n, i], x_index[n, j]].
        number = torch.arange(rows, device=x.device)[:, None, None]
        cut = framed.movedim(1, -1)[number, y_index[:, :, None], x_index[:, None, :]]
        return cut.movedim(-1, 1).add(black).contiguous()

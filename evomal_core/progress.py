"""Progress of a search, shown as one bar or kept silent."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm


class Progress:
    """A bar over all work of a search: the generation, best fitness, counts and time left.

    Args:
        label: shown before the bar.
        shown: whether anything is printed.
    """

    def __init__(self, label: str = "", shown: bool = True) -> None:
        self.label = label
        self.counts = {"cached": 0, "rejected": 0, "diverged": 0}
        self.bar = tqdm(
            total=1.0,
            disable=not shown,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
            desc=label,
            leave=True,
        )

    def anew(self) -> Progress:
        """Another bar like this one."""
        return Progress(self.label, not self.bar.disable)

    def start(self, generations: int) -> None:
        """Set the number of generations; the bar is full after them."""
        self.bar.total = float(generations)
        self.bar.refresh()

    def say(self, text: str) -> None:
        """Show what is being done until the first work is counted."""
        self.bar.set_description(f"{self.label} {text}")

    def tick(self, share: float) -> None:
        """Add a share of one generation's work."""
        if self.bar.n == 0:
            self.bar.set_description(self.label, refresh=False)
        self.bar.update(share)

    def generation(self, row: dict[str, Any], total: int) -> None:
        """Show one finished generation's best fitness and the counts so far."""
        done = row["generation"] + 1
        for name in self.counts:
            self.counts[name] += row.get(name, 0)
        self.bar.set_description(f"{self.label} generation {done}/{total}", refresh=False)
        self.bar.set_postfix(best=f"{row['best_fitness']:.4g}", **self.counts, refresh=False)
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        """Finish the bar."""
        self.bar.close()

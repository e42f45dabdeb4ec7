"""What the SDK's reference shows: a call's result in the place of the flow that its code returns, as ``help()`` does."""

from __future__ import annotations

from typing import Any

import griffe


class Results(griffe.Extension):
    """Writes ``Job`` for ``Flow[Job]``, and ``Iterator[Job]`` for ``Items[Job]``."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Change one function, if it is a call of the SDK."""
        returns = func.returns
        if isinstance(returns, griffe.ExprSubscript) and str(returns.left) == "Flow":
            func.returns = returns.slice
        elif isinstance(returns, griffe.ExprSubscript) and str(returns.left) == "Items":
            returns.left = griffe.ExprName("Iterator")

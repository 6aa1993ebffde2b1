"""How long do the products of an adapted linear layer take, by the layout of their factors?

    python scripts/thin_products.py --rows 2048 --d_in 384 --d_out 1536 --k 8 --dtype float32

prints the median milliseconds of each way to take each product, always of the same tensors, so that
they come from the cache; docs/notebook/performance.md says what came
of it. Symbols: x [rows, d_in], g the gradient of the output [rows, d_out], t = x Aᵀ, s = g B.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

CALLS = 15


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2048, help="batch times length")
    parser.add_argument("--d_in", type=int, default=384)
    parser.add_argument("--d_out", type=int, default=1536)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def in_columns(matrix: Tensor) -> Tensor:
    return matrix.mT.contiguous().mT


def rows_split(factor: Tensor, wide: Tensor, parts: int) -> Tensor:
    rows = wide.view(parts, -1, wide.shape[-1])
    return torch.bmm(factor.expand(parts, *factor.shape), rows.mT).mT.reshape(len(wide), -1)


def sum_split(thin: Tensor, wide: Tensor, parts: int) -> Tensor:
    thin, wide = (rows.view(parts, -1, rows.shape[-1]) for rows in (thin, wide))
    return torch.bmm(thin.mT, wide).sum(0)


def ways(args: argparse.Namespace) -> dict[str, Callable[[], Tensor]]:
    dtype = getattr(torch, args.dtype)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape).to(dtype)

    x, g, W = draw(args.rows, args.d_in), draw(args.rows, args.d_out), draw(args.d_out, args.d_in)
    A, B = draw(args.k, args.d_in), draw(args.d_out, args.k)
    Bt, v = B.mT.contiguous(), A.mT.contiguous()
    t, s = draw(args.rows, args.k), draw(args.rows, args.k)
    t_lying, s_lying = t.mT.contiguous(), s.mT.contiguous()
    A_of_three, s_of_three = draw(3 * args.k, args.d_in), draw(args.rows, 3 * args.k)
    y, gx = torch.zeros_like(g), torch.zeros_like(x)
    return {
        "base output x Wᵀ": lambda: F.linear(x, W),
        "base gradient g W": lambda: g @ W,
        "base gradient g W, g in columns": lambda: in_columns(g) @ W,
        "t = x Aᵀ, A [k, d_in] in rows": lambda: x @ A.mT,
        "t = x Aᵀ, a part of the rows for each thread": lambda: rows_split(A, x, args.threads),
        "t = x v, v [d_in, k] in rows": lambda: x @ v,
        "y + t Bᵀ in place": lambda: y.addmm_(t, Bt),
        "y + t Bᵀ in place, t in columns": lambda: y.addmm_(in_columns(t), Bt),
        "y + t Bᵀ in place, t lying [k, rows]": lambda: y.addmm_(t_lying.mT, Bt),
        "t laid down to [k, rows]": lambda: t.mT.contiguous(),
        "y + z, one more pass": lambda: y + g,
        "s = g B, B [d_out, k] in rows": lambda: g @ B,
        "s = g B, Bᵀ [k, d_out] in rows": lambda: g @ Bt.mT,
        "gradient of B as gᵀ t (autograd's)": lambda: g.mT @ t,
        "gradient of B as tᵀ g": lambda: t.mT @ g,
        "gradient of A as sᵀ x": lambda: s.mT @ x,
        "gradient of A as sᵀ x, a part of the rows for each thread": lambda: sum_split(
            s, x, args.threads
        ),
        "gradient of A as sᵀ x, s lying [k, rows]": lambda: s_lying @ x,
        "gradient of A as xᵀ s": lambda: x.mT @ s,
        "gx + s A in place": lambda: gx.addmm_(s, A),
        "W + B A, the weight formed again": lambda: torch.addmm(W, B, A),
        "t of three matrices at once": lambda: x @ A_of_three.mT,
        "gradient of A of three matrices at once": lambda: s_of_three.mT @ x,
    }


def milliseconds(call: Callable[[], Tensor]) -> float:
    call()
    taken = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        taken.append(1e3 * (time.perf_counter() - start))
    return statistics.median(taken)


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    for name, call in ways(args).items():
        print(f"{milliseconds(call):9.3f} ms  {name}")


if __name__ == "__main__":
    main()

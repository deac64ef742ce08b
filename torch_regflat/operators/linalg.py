"""Dense factorizations and Fourier transforms: traffic once, arithmetic from the textbook counts.

Operations of an n x n matrix (Golub & Van Loan, Matrix Computations, 4th ed.): Cholesky n³/3, LU and a determinant
2n³/3, a solve with k right sides 2n³/3 + 2n²k, a triangular solve n²k, an inverse 2n³, QR 4n³/3, symmetric
eigenvalues 4n³/3 and vectors 9n³, singular values and general eigenvalues 8n³/3 and 10n³, with vectors 21n³ and 25n³.
A Fourier transform of n points is 5·n·log2(n) (2.5 for a real one). They count as vector operations: torch's counter
has no FLOPs for them.
"""

from __future__ import annotations

import math

import torch

from .registry import Call, Formula, Nests, operator
from .shapes import flat, packets

aten = torch.ops.aten

CUBIC: tuple[tuple[float, str], ...] = (
    (1 / 3, "cholesky linalg_cholesky linalg_cholesky_ex"),
    (
        2 / 3,
        "linalg_lu linalg_lu_factor linalg_lu_factor_ex _lu_with_info linalg_det linalg_slogdet logdet slogdet det",
    ),
    (2 / 3, "linalg_ldl_factor linalg_ldl_factor_ex _linalg_det _linalg_slogdet lu_unpack"),
    (4 / 3, "linalg_qr qr geqrf linalg_householder_product orgqr ormqr linalg_eigvalsh"),
    (2, "linalg_inv linalg_inv_ex inverse cholesky_inverse linalg_tensorinv"),
    (8 / 3, "linalg_svdvals linalg_cond linalg_matrix_rank"),
    (9, "linalg_eigh _linalg_eigh"),
    (10, "linalg_eigvals matrix_exp linalg_matrix_exp"),
    (21, "linalg_svd _linalg_svd svd linalg_pinv pinverse linalg_lstsq"),
    (25, "linalg_eig"),
)
"""Vector operations in units of n³ (of m·n·min(m, n) where the matrix is not square)."""

SOLVES = """
    linalg_solve linalg_solve_ex _linalg_solve_ex linalg_lu_solve lu_solve linalg_ldl_solve cholesky_solve
    triangular_solve linalg_solve_triangular linalg_tensorsolve
"""

TRANSFORMS = """
    fft_fft fft_ifft fft_fft2 fft_ifft2 fft_fftn fft_ifftn fft_hfft fft_ihfft fft_hfft2 fft_ihfft2 fft_hfftn fft_ihfftn
    fft_rfft fft_irfft fft_rfft2 fft_irfft2 fft_rfftn fft_irfftn _fft_c2c _fft_r2c _fft_c2r stft istft
"""


def _matrix(call: Call) -> tuple[int, int, int]:
    """Rows, columns and number of the matrices in the first tensor."""
    x = call.inputs[0]
    if x.dim() < 2:
        return x.numel(), 1, 1
    return x.shape[-2], x.shape[-1], math.prod(x.shape[:-2])


def _cubic(factor: float) -> Formula:
    def factorize(call: Call) -> Nests:
        m, n, batch = _matrix(call)
        return flat(call, call.inputs, call.out, vector=factor * batch * m * n * min(m, n), kind="reduction")

    return factorize


for _factor, _names in CUBIC:
    operator(*packets(aten, _names))(_cubic(_factor))


@operator(*packets(aten, SOLVES))
def solve(call: Call) -> Nests:
    """One factorization (unless it is triangular or given factored) and two substitutions a right side."""
    n = call.inputs[0].shape[-1] if call.inputs[0].dim() else 1
    _, _, batch = _matrix(call)
    name = call.target.overloadpacket.__name__
    factored = any(part in name for part in ("lu_solve", "ldl_solve", "cholesky_solve", "triangular"))
    count = 2.0 * n * call.out[0].numel() + (0.0 if factored else 2 / 3 * batch * n**3)
    return flat(call, call.inputs, call.out, vector=count, kind="reduction")


@operator(*packets(aten, TRANSFORMS))
def transform(call: Call) -> Nests:
    """log2 of the length of each transformed axis, summed."""
    x = call.inputs[0]
    points = max(x.numel(), call.out[0].numel())
    axes = call.arg("dim")
    several = call.target.overloadpacket.__name__.endswith(("2", "n", "c2c", "r2c", "c2r"))
    if isinstance(axes, int) or not several:
        axes = [axes if isinstance(axes, int) else -1]
    length = math.prod(x.shape[i] for i in (range(x.dim()) if axes is None else axes)) if x.dim() else 1
    real = not (call.inputs[0].dtype.is_complex and call.out[0].dtype.is_complex)
    each = 2.5 if real else 5.0
    return flat(call, call.inputs, call.out, vector=each * points * max(math.log2(max(length, 1)), 1), kind="reduction")

import pytest
import torch

from trimformer.utils.gram import ProductSum, gram

CPU = torch.device("cpu")


def numbers(tokens, width, seed):
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))


def assert_equal(found, expected, tolerance=1e-6):
    """Relative to what products add up to without cancelling."""
    assert found.dtype == torch.float64
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


@pytest.mark.parametrize("n", [0, 1, 255, 256, 511, 513, 600, 2100])
def test_a_gram_is_the_product_in_float64_and_symmetric(n):
    x, sums = numbers(40, n, seed=n), gram(n, CPU)
    sums.add(x, x)
    if n:
        assert_equal(sums.value, x.double().T @ x.double())
    assert torch.equal(sums.value, sums.value.T)
    assert sums.value.shape == (n, n)


@pytest.mark.parametrize(("n", "m"), [(1, 255), (256, 3), (511, 513), (600, 7)])
def test_two_widths_give_the_product_in_float64(n, m):
    x, y, sums = numbers(40, n, seed=0), numbers(40, m, seed=1), ProductSum(n, m, CPU)
    sums.add(x, y)
    assert_equal(sums.value, x.double().T @ y.double())


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("n", [5, 513])
def test_many_batches_give_what_one_gives(n, symmetric):
    x = numbers(100, n, seed=0)
    one, many = (ProductSum(n, n, CPU, symmetric) for _ in range(2))
    one.add(x, x)
    for part in x.split([0, 1, 60, 39]):
        many.add(part, part)
    assert_equal(many.value, one.value)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_products_are_in_full_float32_even_if_tf32_is_on(precision):
    x, before = numbers(200, 300, seed=0), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        sums = gram(300, CPU)
        sums.add(x, x)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
    assert_equal(sums.value, x.double().T @ x.double())


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_value_can_be_read_at_any_time(symmetric):
    x, sums = numbers(30, 520, seed=0), ProductSum(520, 520, CPU, symmetric)
    sums.add(x, x)
    first = sums.value.clone()
    assert torch.equal(sums.value, first)
    sums.add(x, x)
    torch.testing.assert_close(sums.value, 2 * first)

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from osplan.models.skiparse import Skip, key_masks, patch_mask

SKIPS = st.builds(Skip, st.integers(1, 4), st.booleans())
CPU = torch.device("cpu")


def naive(q, k, v, keep, n, *, group):
    """Attention of each sub-sequence by itself, by the index formulas: (B, N, H, K) to (B, N, D)."""
    batch, tokens, heads, channels = q.shape
    out = torch.zeros(batch, tokens, heads, channels)
    for m in range(n):
        mine = [i for i in range(tokens) if ((i // n) % n if group else i % n) == m]
        for b in range(batch):
            seen = [i for i in mine if keep[b, i]] or mine
            scores = torch.einsum("qhk,thk->hqt", q[b, mine], k[b, seen]) / channels**0.5
            out[b, mine] = torch.einsum("hqt,thk->qhk", scores.softmax(-1), v[b, seen])
    return out.flatten(2)


def attended(x, keep, skip, heads):
    q = k = v = skip.arranged(x).unflatten(-1, (heads, -1))
    mask = key_masks([skip], keep, (len(x), x.shape[1], heads), CPU)[skip]
    out = torch.nn.functional.scaled_dot_product_attention(skip.folded(q), skip.folded(k), skip.folded(v), attn_mask=mask)
    return skip.restored(skip.unfolded(out, len(x)), x.shape[1])


@settings(max_examples=40, deadline=None)
@given(SKIPS, st.integers(1, 3), st.integers(1, 40), st.integers(0, 10**6))
def test_every_token_attends_within_its_sub_sequence(skip, batch, tokens, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, tokens, 12, generator=generator)
    keep = torch.rand(batch, tokens, generator=generator) > 0.3
    kept = keep if seed % 2 else None
    heads = x.unflatten(-1, (2, -1))
    whole = torch.ones_like(keep) if kept is None else keep
    expected = naive(heads, heads, heads, whole, skip.n, group=skip.group)
    got = attended(x, kept, skip, 2)
    assert torch.isfinite(got).all()
    torch.testing.assert_close(got[whole], expected[whole], rtol=1e-4, atol=1e-5)


@given(SKIPS, st.integers(1, 2), st.integers(1, 50))
@settings(deadline=None)
def test_restoring_undoes_arranging(skip, batch, tokens):
    x = torch.randn(batch, tokens, 3)
    arranged = skip.arranged(x)
    assert arranged.shape[1] == tokens + skip.padding(tokens)
    assert torch.equal(skip.restored(arranged, tokens), x)


@pytest.mark.parametrize("skip", [Skip(), Skip(4), Skip(4, True)])
def test_folding_into_sub_sequences_copies_nothing(skip):
    x = torch.randn(3, 32, 2, 6)
    assert skip.folded(x).data_ptr() == x.data_ptr()
    assert skip.unfolded(skip.folded(x), 3).data_ptr() == x.data_ptr()


def test_a_single_skip_leaves_the_tokens_where_they_are():
    x = torch.randn(2, 32, 6)
    assert Skip(4).arranged(x) is x


def test_nothing_is_masked_where_nothing_is_hidden_or_padded():
    masks = key_masks([Skip(), Skip(2), Skip(3)], None, (2, 16, 4), CPU)
    assert masks[Skip()] is None
    assert masks[Skip(2)] is None
    assert masks[Skip(3)] is not None, "16 tokens do not divide into 9"


def test_a_sub_sequence_that_is_all_hidden_sees_all_its_keys():
    keep = torch.ones(1, 16, dtype=torch.bool)
    keep[:, 1::2] = False
    mask = key_masks([Skip(2)], keep, (1, 16, 1), CPU)[Skip(2)]
    assert mask is not None
    assert mask.all()


def test_a_token_is_kept_where_any_of_its_latent_cells_is():
    mask = torch.zeros(1, 1, 4, 4)
    mask[0, 0, 1, 2] = 1
    assert patch_mask(mask, 2).tolist() == [[False, True, False, False]]
    assert patch_mask(None, 2) is None

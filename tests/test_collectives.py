"""Bytes between devices, counted in programs with known traffic."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.collectives import Traffic, traffic

SIZE = 1024


def compiled(function, spec, out):
    """The text of `function` of float32[4, 1024], sharded over four devices by `spec`."""
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    x = jax.ShapeDtypeStruct((4, SIZE), jnp.float32, sharding=NamedSharding(mesh, spec))
    run = jax.jit(function, out_shardings=NamedSharding(mesh, out))
    return run.lower(x).compile().as_text()


def test_a_sum_over_devices_goes_twice_around():
    """An all-reduce of 1024 floats: 4096 bytes, and 2 * 3/4 of that over a ring."""
    found = traffic(compiled(lambda x: x.sum(0), P("data"), P()))
    assert found == Traffic(4 * SIZE, 4 * SIZE * 1.5)


def test_a_gather_goes_once_around():
    """An array of which each device has a quarter."""
    found = traffic(compiled(lambda x: x, P("data"), P()))
    assert found == Traffic(16 * SIZE, 16 * SIZE * 0.75)


def test_a_loop_counts_as_often_as_it_turns():
    """Five sums in sequence."""

    def five(x):
        one = lambda carry, _: (jnp.sin(x + carry).sum(0), None)  # noqa: E731
        return jax.lax.scan(one, jnp.zeros(SIZE), length=5)[0]

    found = traffic(compiled(five, P("data"), P()))
    assert found == Traffic(5 * 4 * SIZE, 5 * 4 * SIZE * 1.5)


def test_nothing_is_counted_where_nothing_is_sent():
    """Elementwise operations need no communication."""
    assert traffic(compiled(jnp.sin, P("data"), P("data"))) == Traffic()


# A loop of 13 iterations from libtpu 0.0.42, shortened.
LOOP = """
%body (p: (s32[], f32[256], s32[])) -> (s32[], f32[256], s32[]) {
  %x = f32[256]{0:T(256)} get-tuple-element(%p), index=1
  %sum = f32[256]{0:T(256)} all-reduce(%x), replica_groups=mesh['a'=8,'b'=1] {'a'}, to_apply=%add
}

%condition (p.1: (s32[], f32[256], s32[])) -> pred[] {
  %bound = s32[]{:T(128)} constant(13)
  %counter = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%counter, %bound), direction=LT
}

ENTRY %main (x.1: f32[256]) -> f32[256] {
  %zero = s32[]{:T(128)} constant(0)
  %x.1 = f32[256]{0:T(256)} parameter(0)
  %start = s32[]{:T(128)} copy(%zero)
  %all = (s32[], /*index=1*/f32[256], s32[]) tuple(%start, /*index=1*/%x.1, %zero)
  %loop = (s32[], f32[256], s32[]) while(%all), condition=%condition, body=%body
}
"""


def test_a_loops_counter_is_read_where_it_does_not_say():
    """The iterations come from the counter's start and bound."""
    assert traffic(LOOP) == Traffic(13 * 1024, 13 * 1024 * 2 * 7 / 8)


def test_groups_are_read_where_the_devices_stand_in_another_order():
    """In the same compiler's notation for a mesh of 64 x 4."""
    order = ", device_ids=([64,4]T(1,0))"
    assert traffic(LOOP.replace("'b'=1]", "'b'=1]" + order)) == traffic(LOOP)


def test_a_sum_of_which_each_device_keeps_a_part_goes_once_around():
    """On a TPU it is a fusion of that name."""
    program = """
%all-reduce-scatter.1 (x: f32[8,256]) -> f32[1,256] {
  %sum = f32[8,256]{1,0} all-reduce(%x), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  ROOT %part = f32[1,256]{1,0} dynamic-slice(%sum, %i, %zero), dynamic_slice_sizes={1,256}
}

ENTRY %main (y: f32[8,256]) -> f32[1,256] {
  ROOT %f = f32[1,256]{1,0} fusion(%y), kind=kCustom, calls=%all-reduce-scatter.1
}
"""
    assert traffic(program) == Traffic(8192, 8192 * 7 / 8)


@pytest.mark.parametrize("change", [("LT", "NE"), ("constant(0)", "constant(1)"), ("13", "x")])
def test_a_loop_without_a_count_is_refused(change):
    """Its traffic would be counted wrong."""
    with pytest.raises(ValueError, match="a loop with an unknown number of iterations"):
        traffic(LOOP.replace(*change))

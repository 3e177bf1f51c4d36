from mirl_mm.measure.depth import probed_blocks


def test_blocks():
    assert probed_blocks(12, 1) == list(range(12))
    assert probed_blocks(12, 5) == [1, 6, 11]
    assert probed_blocks(54, 9) == [8, 17, 26, 35, 44, 53]  # the ends of s54's segments

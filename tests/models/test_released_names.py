from occloom.models.released_names import is_unused, our_name


def test_a_longer_name_counts_before_a_shorter_one():
    names = (("a", "x"), ("a.*.b", "y.*.z"))
    assert our_name("a.weight", names) == "x.weight"
    assert our_name("a.3.b.weight", names) == "y.3.z.weight"
    assert our_name("a.c.b.weight", names) == "x.c.b.weight"
    assert our_name("ab.weight", names) is None


def test_unused_is_what_is_named_and_all_that_stands_under_it():
    assert is_unused("a.b", ("a.b", "c"))
    assert is_unused("c.weight", ("a.b", "c"))
    assert not is_unused("a.bc", ("a.b", "c"))
    assert not is_unused("a", ("a.b", "c"))

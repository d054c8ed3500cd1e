def test_x(tiny_surround_town): print(tiny_surround_town)

"""What the rooms of the bug museum share.  An exhibit is a test with a switch: it must fail with the bug and pass without."""


def exhibit(test):
    """Decorate `test_something(bug)`: run it both ways, at once, and print what it said about the bug."""
    try:
        test(bug=True)
    except AssertionError as failure:
        print(f"{test.__name__}\n    with the bug:    fails: {failure}")
    else:
        raise RuntimeError(f"{test.__name__} does not notice its bug")
    test(bug=False)
    print("    without the bug: passes")
    return test

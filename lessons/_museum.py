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


def catches(make):
    """The check of an exercise whose answer is a test.

    make: make(bug) gives what the reader's test is called with.  The test must fail (raise AssertionError, or return False) on
    make(True) and pass on make(False).
    """
    def fails(test, subject):
        try:
            verdict = test(subject)
        except AssertionError:
            return True
        return verdict is not None and not verdict

    def check(test):
        if fails(test, make(False)):
            return "the test fails without the bug"
        return True if fails(test, make(True)) else "the test passes with the bug"
    return check

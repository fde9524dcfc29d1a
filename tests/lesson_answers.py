"""Answers to the lessons' exercises: for each lesson {number: (a right answer, a wrong one)}.  Spoilers, and a test of the checks."""

ANSWERS = {
}

"""Why lengths are refused at which a converted model was not seen to obey the law, in words."""

UNSEEN = "forward was seen to run at no other length at which the law could be checked"
"""Why other lengths are refused where none was checked."""

FIXED_TO_IT = "as something in forward was fixed to the length of the example"
"""Why the law fails at other lengths, where nothing else is known."""

RESTS = "forward goes by the rest of a division of a size, and not every rest could be tried"
"""Why lengths are refused that leave another rest than the example's."""

STEPS = (
    "forward rounds, or compares, fractions that it computes from the length, and at some lengths two mirrored ones "
    "end up on different sides of a step; compute them from whole numbers, such as the distance to the nearer end"
)
"""Why other lengths are refused where a step may fall between two mirrored numbers."""

ROWS = (
    "forward points to rows of a table by numbers that it makes from the length, and at no length that was looked at "
    "did it read all of them{}; convert with an example of the length that is needed"
)
"""Why long inputs are refused that may read rows of a table that no shorter one reads."""

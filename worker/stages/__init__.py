"""The three kinds of stage, one function each. They know plugins by contract only."""

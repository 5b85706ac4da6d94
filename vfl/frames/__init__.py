"""What people hold tables in, at the edge of the estimators: data frames of any library, arrays, lists.

Errors name party and column, never a value.
"""

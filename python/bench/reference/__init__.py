"""What upstream's classes compute, in the way upstream computes it, with torch's best kernel for each thing it asks for.

Written from descriptions of the public code's shapes and order of operations. The golden cases that hold for `osplan` hold for these:
a comparison of speed means something only between programs that give the same numbers.
"""

"""All parties in one process: their tables in, a model out.

Two engines train and score the same model, bit for bit. "plain" works on all columns in one place and
matches ids in the clear, as nobody hides from anybody here. "protocol" runs what the parties would run
apart, alignment by private set intersection, encryption and all, over memory instead of the network; it
leaves out only what guards a party against others: policies, certificates, a least size of intersection.
"""

"""Several processes that work as one: started by torchrun, accelerate launch or srun, joined by torch.distributed.

Rank 0 runs the command. The others make objects that it asks for, and call their methods when it says so. So rank 0
alone reads settings, decides, writes and talks, and one process is the same code with a size of one.
"""

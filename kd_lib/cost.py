import torch
def parameters(m): return sum(p.numel() for p in m.parameters())
def multiply_adds(m,shape):
    from torch.utils.flop_counter import FlopCounterMode
    with FlopCounterMode(display=False) as f, torch.no_grad(): m(torch.zeros(1,*shape))
    return f.get_total_flops()//2

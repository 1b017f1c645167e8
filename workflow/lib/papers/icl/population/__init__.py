"""Gradient descent on the population loss: figure 1, the plateau and the scaling in K."""

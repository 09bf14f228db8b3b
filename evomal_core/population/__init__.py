"""The engine `batched`: a whole population of losses meta-trained, evaluated and filtered at once."""

"""Things with one fault each. The name of a class says the fault, ``caught_by`` which check must find it."""

"""A machine with a kernel of its own, on the files of this one: where tests meet Open vSwitch's kernel datapath."""

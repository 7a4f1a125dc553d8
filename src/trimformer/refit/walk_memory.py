"""What a walk stores, in bytes, and where."""

from dataclasses import dataclass

STATES = 2  # tensors stored per model and position: a layer's input and the output of its first projection


@dataclass(frozen=True)
class WalkMemory:
    """Bytes of the tensors that a walk stores, and whether they fit.

    Attributes:
        states: bytes of the hidden states of the teacher and all students.
        channels: bytes of the channels of all students' widest sublayer.
        most: bytes that both may take.
    """

    states: float
    channels: float
    most: float

    @classmethod
    def of(cls, bytes_per_width: float, hidden_size: int, channels: int, students: int, most: float) -> "WalkMemory":
        """Counts the bytes.

        Args:
            bytes_per_width: positions of all batches, times bytes per number.
            hidden_size: width of the residual stream.
            channels: channels of the widest sublayer, summed over the students.
            students: number of students.
            most: bytes that the tensors may take.
        """
        return cls((1 + students) * bytes_per_width * STATES * hidden_size, bytes_per_width * channels, most)

    @property
    def on_disk(self) -> bool:
        """Whether hidden states go to temporary files."""
        return self.states > self.most

    @property
    def keeps_channels(self) -> bool:
        """Whether channels are stored; otherwise they are computed twice."""
        return self.states + self.channels <= self.most

    @property
    def in_memory(self) -> float:
        """Bytes that are not in files."""
        return (0.0 if self.on_disk else self.states) + (self.channels if self.keeps_channels else 0.0)

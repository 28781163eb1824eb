"""Tables and their statistics: functions of recorded rows, without input or output."""

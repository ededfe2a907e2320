"""What is made from a data set's own captions: false texts that differ in one fact, and true texts in other words."""

"""What is made for a data set: captions by models, false texts that differ in one fact, true texts in other words; and who shares the work out."""

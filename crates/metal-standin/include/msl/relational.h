// relational

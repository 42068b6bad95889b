"""Tables, figures and exports: numbers first, drawing second."""

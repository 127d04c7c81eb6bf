"""Renderers: one record, five faces. They read a report and never compute one."""

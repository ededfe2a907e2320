"""The look of Gradio's own parts, by the colours and letters of our pages (``report/colours.css.j2``)."""

from __future__ import annotations

from gradio.themes.base import Base

_LETTERS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
_COLOURS = {
    "var(--page)": ("body_background_fill", "background_fill_primary", "button_primary_text_color", "button_primary_text_color_hover",
                    "block_label_background_fill", "input_background_fill", "input_background_fill_focus"),
    "var(--card)": ("block_background_fill", "button_secondary_background_fill", "checkbox_label_background_fill",
                    "checkbox_background_color", "panel_background_fill"),
    "var(--tint)": ("background_fill_secondary", "button_secondary_background_fill_hover", "checkbox_label_background_fill_hover",
                    "checkbox_label_background_fill_selected", "color_accent_soft"),
    "var(--ink)": ("body_text_color", "block_title_text_color", "button_primary_background_fill", "button_primary_border_color", "button_secondary_text_color",
                   "checkbox_label_text_color", "checkbox_label_text_color_selected", "accordion_text_color"),
    "var(--soft)": ("body_text_color_subdued", "block_label_text_color", "block_info_text_color", "input_placeholder_color",
                    "input_border_color", "checkbox_border_color"),
    "var(--line)": ("border_color_primary", "block_border_color", "button_secondary_border_color", "block_label_border_color",
                    "checkbox_label_border_color"),
    "var(--mark)": ("border_color_accent", "color_accent", "slider_color", "checkbox_background_color_selected", "input_border_color_focus", "loader_color",
                    "button_primary_background_fill_hover", "button_primary_border_color_hover",
                    "checkbox_border_color_selected", "checkbox_border_color_focus"),
}  # fmt: skip
"""A colour -> the parts that have it; in the dark the same names stand for other colours."""


def theme() -> Base:
    """System letters, and no font or colour that comes from elsewhere."""
    made = Base(font=_LETTERS, font_mono=["ui-monospace", "DejaVu Sans Mono", "monospace"])
    parts = {part: colour for colour, its in _COLOURS.items() for part in its}
    known = set(Base.set.__code__.co_varnames)
    dark = {f"{part}_dark": colour for part, colour in parts.items() if f"{part}_dark" in known}
    return made.set(**{part: colour for part, colour in parts.items() if part in known}, **dark, block_shadow="none", block_shadow_dark="none",
                    button_border_width="1px", input_border_width="1px")  # fmt: skip

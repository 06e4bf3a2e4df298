// The picture of an Explorer: drawn anew whenever the kernel sends another one.

function render({ model, el }) {
  el.classList.add("txl-drawing");
  const draw = () => el.replaceChildren(drawn(model.get("scene")));
  model.on("change:scene", draw);
  draw();
  return () => model.off("change:scene", draw);
}

export default { render };

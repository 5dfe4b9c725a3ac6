// Where each image of a sample grid lies: blocks of columns beside each other, with narrow gaps. The gaps are found from the size of the picture and the blocks alone.

/** `{cells: [{x, y, size, block, row, column, name}], blocks: [{x, width, name}]}` in pixels of a picture of this size, or null if it does not fit. */
export function layout(grid, width, height) {
  const blocks = grid?.blocks;
  const rows = grid?.generated?.[0] ?? 8;
  if (!Array.isArray(blocks) || blocks.length === 0 || !(width > 0) || !(height > 0)) return null;
  const columns = blocks.reduce((sum, block) => sum + block.columns, 0);
  // rows * pitch + gap = height, columns * pitch + (3 * blocks - 2) * gap = width.
  const wide = 3 * blocks.length - 2;
  const divisor = columns - wide * rows;
  let pitch = (width - wide * height) / divisor;
  let gap = height - rows * pitch;
  if (!(pitch > 1) || gap < -0.5 || gap > pitch / 4) {
    pitch = Math.min(height / rows, width / columns);
    gap = 0;
  }
  const size = pitch - gap;
  const cells = [];
  const spans = [];
  let left = gap;
  blocks.forEach((block, b) => {
    const parts = (block.name ?? "").split(",").map((part) => part.trim());
    spans.push({ x: left, width: block.columns * pitch - gap, name: block.name ?? "" });
    for (let row = 0; row < rows; row++)
      for (let column = 0; column < block.columns; column++) {
        const name = parts[column % parts.length] || "image";
        cells.push({ x: left + column * pitch, y: gap + row * pitch, size, block: b, row, column, name, pair: parts.length > 1 });
      }
    left += block.columns * pitch + 3 * gap;
  });
  return { cells, blocks: spans, rows, size };
}

/** The cell under a pixel, or -1. */
export function cellAt(plan, x, y) {
  return plan ? plan.cells.findIndex((cell) => x >= cell.x - 1 && x < cell.x + cell.size + 1 && y >= cell.y - 1 && y < cell.y + cell.size + 1) : -1;
}

/** The nearest cell in a direction, or the same. */
export function neighbour(plan, at, dx, dy) {
  const from = plan.cells[at];
  let best = at;
  let least = Infinity;
  plan.cells.forEach((cell, i) => {
    const [x, y] = [cell.x - from.x, cell.y - from.y];
    if ((dx && (x * dx <= 1 || Math.abs(y) > 1)) || (dy && (y * dy <= 1 || Math.abs(x) > 1))) return;
    const distance = Math.abs(x) + Math.abs(y);
    if (distance < least) [least, best] = [distance, i];
  });
  return best;
}
